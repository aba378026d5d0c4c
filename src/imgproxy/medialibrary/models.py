"""
What the Media Library answers with, typed and frozen.

JSON names become ours (`mimeType` is `mime_type`). Fields that this client does not know stay in `extra`, so that a
newer server breaks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - pydantic reads it at run time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationError
from pydantic.alias_generators import to_camel

from imgproxy.medialibrary.errors import UnexpectedAnswer
from imgproxy.medialibrary.moments import iso_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

# The format of a picture can be told from so many bytes.
HEAD_BYTES: Final = 4096

Moment = Annotated[datetime, PlainSerializer(iso_ms, when_used="json")]


class ApiModel(BaseModel):
    """A JSON object of the API. It is frozen, and accepts fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="allow", alias_generator=to_camel, populate_by_name=True)

    @property
    def extra(self) -> Mapping[str, Any]:
        """The fields of the answer that this model does not name."""
        return self.model_extra or {}

    def to_json(self) -> dict[str, Any]:
        """The object in the API's own names, without the fields that the answer did not have."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Asset(ApiModel):
    """The picture of an entry; pixels as stored, `size` in bytes."""

    url: str | None = None
    mime_type: str | None = None
    width_px: int | None = Field(None, alias="width")
    height_px: int | None = Field(None, alias="height")
    size_bytes: int | None = Field(None, alias="size")


class Entry(ApiModel):
    """A Media Library entry. `version` is raised by each patch."""

    id: str
    version: int
    media_type: str
    asset: Asset | None = None
    metadata: Mapping[str, Any] = Field(default_factory=dict)
    created_at: Moment
    updated_at: Moment
    system_name: str | None = None
    external_id: str | None = None


class Reference(ApiModel):
    """One place in a document or entry that uses the entry: a directive of a component, or a metadata property."""

    id: str
    type: str
    location: str
    component_id: str | None = None
    component_name: str | None = None
    directive_name: str | None = None
    property_name: str | None = None


class DocumentReferences(ApiModel):
    """A published document and its references to the entry."""

    id: int
    references: tuple[Reference, ...]


class MediaReferences(ApiModel):
    """A Media Library entry and its references to the entry."""

    id: str
    references: tuple[Reference, ...]


class Usage(ApiModel):
    """One line of an entry's usage log."""

    id: str
    state: str
    purpose: str
    url: str | None = None
    params: Mapping[str, Any] | None = None
    document_id: int | None = None
    publication_id: int | None = None
    reporting_date: Moment | None = None
    publication_date: Moment | None = None


Row = TypeVar("Row", DocumentReferences, MediaReferences)
Model = TypeVar("Model", bound=ApiModel)


@dataclass(frozen=True, slots=True)
class Validators:
    """What a conditional request compares: these headers of an earlier answer."""

    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True)
class ServedImage:
    """
    The outcome of serve-image.

    `is_modified` is False if the library confirmed the validators (304). Then nothing was written, `size_bytes` is 0
    and `digest` is None. Otherwise `digest` is that of the written bytes (`imgproxy.digest`), and `head` has the first
    HEAD_BYTES of them.
    """

    is_modified: bool
    content_type: str | None
    etag: str | None
    last_modified: str | None
    size_bytes: int
    digest: str | None
    head: bytes = b""


def read(model: type[Model], answer: Any, where: str) -> Model:
    """
    Return the model that a JSON value of an answer stands for.

    Raises:
        UnexpectedAnswer: the value has another form; `where` (method and path) is in its text.
    """
    try:
        return model.model_validate(answer)
    except ValidationError as exc:
        problem = exc.errors(include_input=False, include_url=False)[0]
        path = ".".join(str(part) for part in problem["loc"])
        raise UnexpectedAnswer(message=f"{model.__name__} {path}: {problem['msg']}", where=where) from exc


def read_list(answer: Any, name: str, where: str) -> Sequence[Any]:
    """Return the list with this name in an answer. Raises UnexpectedAnswer if there is none."""
    rows = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(rows, list):
        raise UnexpectedAnswer(message=f"the body has no list {name!r}", where=where)
    return rows
