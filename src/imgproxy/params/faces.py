"""Plans and faces: which plans need the faces of the original, and the plan that finds them. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from imgproxy.params.plan import Fit, Format, Frames, Output, Px, RenderPlan, Resize

# The detector sees a copy of at most this side. YuNet finds faces of 10 to 300 pixels: here, from a sixtieth of the
# longer side on. Source: opencv_zoo, models/face_detection_yunet/README.md.
SIDE_PX: Final = 640


def needs_faces(plan: RenderPlan) -> bool:
    """Tell whether the variant depends on the faces of the original."""
    return plan.resize.faces is not None or plan.output.has_faces


def plan_of_faces(plan: RenderPlan) -> RenderPlan:
    """Return the plan of the face record that this plan needs: one for each page and orientation, so usually one."""
    first = plan.frames.first
    return RenderPlan(
        orient=plan.orient,
        resize=Resize(Px(SIDE_PX), Px(SIDE_PX), fit=Fit.MAX),
        frames=Frames(page=plan.frames.page, first=first, last=first),
        output=Output(format=Format.FACES),
    )


def without_faces(plan: RenderPlan) -> RenderPlan:
    """Return the plan for a picture in which no face is found: as for a service without a detector."""
    return replace(plan, resize=replace(plan.resize, faces=None), output=replace(plan.output, has_faces=False))
