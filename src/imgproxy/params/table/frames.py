"""Pages and frames."""

from __future__ import annotations

from typing import Final

from imgproxy.params import kinds, lengths
from imgproxy.params.parameter import Parameter

PAGE: Final = Parameter("page", kinds.integer(1, 10_000), "Page of a document with several.", "1")
FRAME: Final = Parameter("frame", lengths.FRAME_SPAN, "Only these frames of an animation.", "all")
LOOP: Final = Parameter("loop", kinds.integer(0, 65535), "How often it plays; 0 is forever.", "as the source")
INTERVAL: Final = Parameter("interval", kinds.integer(1, 1000), "Keep every nth frame.", "1")
SKIP: Final = Parameter("skip", kinds.integer(1, 1000), "Drop every nth frame.")
REVERSE: Final = Parameter("reverse", kinds.FLAG, "Play backwards.", "false")
FPS: Final = Parameter("fps", kinds.number(1, 60), "Frames a second.", "as the source")
