"""config.example.toml, written from the declarations of the settings."""

from __future__ import annotations

from typing import get_origin

from pydantic_core import PydanticUndefined

from imgproxy.config.settings import Settings
from imgproxy.config.wording import allowed, as_toml, section_class


def example_toml() -> str:
    """Return the text of the file: every setting with its default and a line of help."""
    lines = [
        "# Every setting of imgproxy with its default. Copy what you change; leave out the rest.",
        "# The environment wins over this file: IMGPROXY_<SECTION>__<KEY>=value, lists as JSON.",
        "# Check a file with: imgproxy check -c FILE",
    ]
    for name, info in Settings.model_fields.items():
        section = section_class(info)
        if section is None:
            continue
        is_list = get_origin(info.annotation) is tuple
        lines += ["", f"# {(section.__doc__ or '').strip().splitlines()[0]}"]
        lines.append(f"# [[{name}]]  # as many as there are" if is_list else f"[{name}]")
        for key, setting in section.model_fields.items():
            lines += [f"# {setting.description} ({allowed(setting)})"]
            default = setting.get_default(call_default_factory=True)
            is_set = not is_list and default is not None and default is not PydanticUndefined
            lines.append(f"{key} = {as_toml(default)}" if is_set else f"# {key} = {as_toml(default)}")
    return "\n".join(lines) + "\n"
