"""The summary of a picture's credentials: for `fm=json`, the command line and the playground."""

from __future__ import annotations

from typing import Any, Final

from imgproxy.manifests.source import actions, generations, rows, table

# A summary is for people: more than this nobody reads, and a hostile manifest must not fill an answer.
GENERATIONS_MAX: Final = 20
ITEMS_MAX: Final = 50
TEXT_MAX_CHARS: Final = 200


def summary(store: dict[str, Any]) -> dict[str, Any]:
    """
    Return the validity of the newest manifest, and each generation: the newest first.

    A generation has its issuer, its signer, when it was signed, with which program, and what was done.
    """
    found = list(generations(store))
    return {
        "validity": _text(store.get("validation_state", "Invalid")).lower(),
        "problems": _problems(store),
        "generations": [_generation(one) for one in found[:GENERATIONS_MAX]],
    }


def _generation(manifest: dict[str, Any]) -> dict[str, Any]:
    signature = table(manifest.get("signature_info"))
    programs = [
        f"{_text(one.get('name'))} {_text(one.get('version'))}".strip()
        for one in rows(manifest.get("claim_generator_info"))
    ]
    row = {
        "title": _text(manifest.get("title")),
        "issuer": _text(signature.get("issuer")),
        "signer": _text(signature.get("common_name")),
        "time": _text(signature.get("time")),
        "program": ", ".join(programs[:ITEMS_MAX]),
        "actions": [_action(one) for one in actions(manifest)[:ITEMS_MAX]],
    }
    return {name: value for name, value in row.items() if value}


def _action(action: dict[str, Any]) -> dict[str, str]:
    row = {
        "action": _text(action.get("action")),
        "when": _text(action.get("when")),
        "source_type": _text(action.get("digitalSourceType")).rpartition("/")[2],
    }
    return {name: value for name, value in row.items() if value}


def _problems(store: dict[str, Any]) -> list[str]:
    """Return the codes of what is wrong with the newest manifest and its ingredients (C2PA 2.2, 15.2)."""
    results = table(store.get("validation_results"))
    found = [table(results.get("activeManifest"))]
    found += [table(one.get("validationDeltas")) for one in rows(results.get("ingredientDeltas"))]
    codes = [_text(item.get("code")) for one in found for item in rows(one.get("failure"))]
    return list(dict.fromkeys(codes))[:ITEMS_MAX]


def printable(text: object) -> str:
    """
    Return the beginning of a text, with spaces for what is no visible character.

    A stranger wrote it, and it may be shown on a terminal, which obeys control characters.
    """
    return "".join(one if one.isprintable() else " " for one in str(text)[:TEXT_MAX_CHARS])


def _text(value: object) -> str:
    return printable(value) if isinstance(value, str) else ""
