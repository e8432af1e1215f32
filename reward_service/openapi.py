"""Documentation of the HTTP API: the OpenAPI document, and an HTML page that works offline."""

from __future__ import annotations

import html
import json
from dataclasses import asdict
from typing import Any

from dopamine_rl.types import FUSIONS, FusionConfig
from dopamine_rl.wire import DEFAULT_LIMITS
from reward_service.bodies import DEFAULT_REMAINING_MS
from reward_service.statuses import ENCODINGS, STATUSES

FILE = "base64 of a PNG or JPEG file, 8-bit RGB or grey; its EXIF orientation is applied"

ABOUT = """Scores a robot's progress with a reward model. A request contains one or more frames of an episode. For each
frame and each of three perspectives (incremental, forward, backward), the reply gives the hop: how much closer to the
goal the frame is than its anchor frame. With start_progress it also gives the progress in [0, 1] after each frame. An
answer that could not be read is null, with a reason; never a number. The same fields can be sent as msgpack
(application/msgpack) in the envelope {"protocol": "dopamine-reward", "version": 1, "kind": "request", "body": {…}};
then images are bytes instead of base64, no field is optional, and views may be sent as tokens of the model's vision
tower (previous_tokens, frame_tokens; docs/serving.md). Bodies may be compressed (Content-Encoding: gzip or
deflate); size limits apply after decompression."""

_SUMMARIES = {
    "/v1/version": "The current model version, and the vision tower whose tokens it takes.",
    "/healthz": "Health check: whether the model answers. Needs no token.",
    "/metrics": "Metrics in Prometheus' text format.",
}


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    score = {
        "operationId": "score",
        "summary": "Hops, and on request the progress, of one or more frames.",
        "parameters": [
            {
                "name": "Content-Encoding",
                "in": "header",
                "required": False,
                "schema": {"enum": list(ENCODINGS)},
                "description": "Compression of the body. Default: none.",
            }
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("Request")}, "application/msgpack": {}},
        },
        "responses": {
            "200": {
                "description": "The reply.",
                "content": {"application/json": {"schema": _ref("Reply")}, "application/msgpack": {}},
            },
            **_errors(),
        },
    }
    paths: dict[str, Any] = {"/v1/score": {"post": score}}
    for path, summary in _SUMMARIES.items():
        paths[path] = {"get": {"summary": summary, "responses": {"200": {"description": summary}, **_errors()}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "dopamine reward service", "version": "1", "description": ABOUT},
        "paths": paths,
        "security": [{"token": []}, {}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Request": _request(), "Reply": _reply(), "Error": _error(), "Array": _array()},
        },
    }


def page() -> str:
    """The documentation as HTML."""
    described = document()
    parts = [f"<h1>{described['info']['title']}</h1><p>{html.escape(ABOUT)}</p>"]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {path}</code></h2><p>{html.escape(operation['summary'])}</p>")
    for name in ("Request", "Reply", "Error"):
        rows = "".join(_row(*field) for field in described["components"]["schemas"][name]["properties"].items())
        parts.append(f"<h2>{name}</h2><table>{rows}</table>")
    statuses = "".join(
        f"<tr><td>{status}<td>{error.__name__}<td>{html.escape(error.__doc__ or '')}" for error, status in STATUSES
    )
    parts.append(f"<h2>Statuses of errors</h2><table>{statuses}</table><p><a href='openapi.json'>openapi.json</a></p>")
    style = "body{font-family:sans-serif;max-width:60em;margin:auto}td{vertical-align:top;padding:0 1em .5em 0}"
    return f"<!doctype html><meta charset=utf-8><title>dopamine reward service</title><style>{style}</style>" + "".join(
        parts
    )


def _row(name: str, schema: dict[str, Any]) -> str:
    default = f" Default: {json.dumps(schema['default'])}." if "default" in schema else ""
    return f"<tr><td><code>{name}</code><td>{html.escape(schema.get('description', '') + default)}"


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _errors() -> dict[str, Any]:
    statuses = sorted({status for _, status in STATUSES} | {500})
    names = {status: [kind.__name__ for kind, s in STATUSES if s == status] or ["InternalError"] for status in statuses}
    content = {"application/json": {"schema": _ref("Error")}, "application/msgpack": {}}
    return {str(s): {"description": " or ".join(names[s]), "content": content} for s in statuses}


def _array() -> dict[str, Any]:
    properties = {
        "dtype": {"const": "|u1", "default": "|u1"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 3, "maxItems": 5},
        "data": {"type": "string", "contentEncoding": "base64", "description": "RGB pixels in C order"},
    }
    return {"type": "object", "properties": properties, "required": ["shape", "data"], "additionalProperties": False}


def _pictures(axes: int, text: str) -> dict[str, Any]:
    """The schema of an image field with `axes` axes: nested lists of files, or an array."""
    files: dict[str, Any] = {"type": "string", "contentEncoding": "base64", "description": FILE}
    for most in (DEFAULT_LIMITS.max_views, DEFAULT_LIMITS.max_frames)[: axes - 3]:
        files = {"type": "array", "items": files, "minItems": 1, "maxItems": most}
    kinds = {3: "[H, W, 3]: a file", 4: "[V, H, W, 3]: a list of V files", 5: "[T, V, H, W, 3]: T lists of V files"}
    return {"anyOf": [files, _ref("Array")], "description": f"{text} {kinds[axes]}, or an array of pixels."}


def _request() -> dict[str, Any]:
    text = {"type": "string", "maxLength": DEFAULT_LIMITS.max_text}
    number, unit = {"type": "number"}, {"type": "number", "minimum": 0, "maximum": 1}
    times = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": 2**53 - 1},
        "minItems": 1,
        "maxItems": DEFAULT_LIMITS.max_frames,
    }
    fusion = {
        "kind": {"enum": list(FUSIONS)},
        "alpha": {**number, "minimum": 0},
        "epsilon": {**number, "exclusiveMinimum": 0},
        "chain": {"enum": ["fused", "own"]},
    }
    properties = {
        "episode_id": {**text, "description": "Unique name of the episode."},
        "instruction": {**text, "description": "The task in words."},
        "reference_start": _pictures(3, "Front view of the demonstration's first frame."),
        "reference_end": _pictures(3, "Front view of the demonstration's last frame."),
        "init": _pictures(4, "First frame of this episode, all views."),
        "goal": _pictures(4, "Last frame of the demonstration, all views; never of the running episode."),
        "previous": _pictures(
            4, "The last scored frame before these, all views; at the start of an episode, its first frame."
        ),
        "frames": _pictures(5, "The frames to score, in order of time."),
        "times": {**times, "description": "Environment step of each frame, strictly increasing. Default: 1, 2, …"},
        "model_version": {
            "anyOf": [text, {"type": "null"}],
            "default": None,
            "description": "The model version that must answer; null means the current one.",
        },
        "remaining_ms": {
            **number,
            "default": DEFAULT_REMAINING_MS,
            "description": "Time left for the reply, in milliseconds.",
        },
        "start_progress": {
            "anyOf": [unit, {"type": "null"}],
            "default": None,
            "description": "Progress at `previous`. If given, the reply contains the progress after each frame.",
        },
        "start_perspectives": {
            "anyOf": [{"type": "array", "items": unit, "minItems": 3, "maxItems": 3}, {"type": "null"}],
            "default": None,
            "description": "Progress of each perspective at `previous`: the last row of the previous reply's "
            "folded.perspectives. Needed to continue an episode with chain own.",
        },
        "fusion": {
            "type": "object",
            "properties": fusion,
            "additionalProperties": False,
            "default": asdict(FusionConfig()),
            "description": "How the three perspectives are fused into one progress value.",
        },
    }
    optional = {"times", "model_version", "remaining_ms", "start_progress", "start_perspectives", "fusion"}
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _reply() -> dict[str, Any]:
    rows = {
        "type": "array",
        "items": {"type": "array", "items": {"type": ["number", "null"]}, "minItems": 3, "maxItems": 3},
    }
    column, flags = {"type": "array", "items": {"type": "number"}}, {"type": "array", "items": {"type": "boolean"}}
    folded = {"progress": column, "perspectives": rows, "weight": column, "valid": flags}
    properties = {
        "gain": {
            **rows,
            "description": "[T, 3] in [0, 1], expected positive hop; null if the answer could not be read.",
        },
        "loss": {**rows, "description": "[T, 3] in [0, 1], expected negative hop; null as for gain."},
        "hops": {**rows, "description": "[T, 3] in [-1, 1], gain - loss; null as for gain."},
        "entropy": {**rows, "description": "[T, 3], in nats; null if unknown."},
        "valid": {**flags, "description": "[T]: whether all three perspectives could be read."},
        "reasons": {
            "type": "array",
            "items": {"type": "string"},
            "description": "[T]: empty if valid, otherwise why there is no value.",
        },
        "anchor_times": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "[T]: time of the anchor frame of each frame; -1 is `previous`.",
        },
        "model_version": {"type": "string", "description": "The model version that answered."},
        "queue_ms": {"type": "number", "description": "Time in the queue, in milliseconds."},
        "model_ms": {"type": "number", "description": "Time of its batch in the model, in milliseconds."},
        "folded": {
            "anyOf": [{"type": "object", "properties": folded, "required": list(folded)}, {"type": "null"}],
            "description": "Progress after each frame, [T], and by perspective, [T, 3]; held if not valid. "
            "Null without start_progress.",
        },
    }
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _error() -> dict[str, Any]:
    text = {"type": "string"}
    names = {name: text for name in ("type", "message", "field", "value", "fix")}
    error = {
        "type": "object",
        "properties": names,
        "required": ["type", "message"],
        "description": "type and message; for BadInput also field, value and fix.",
    }
    return {"type": "object", "properties": {"error": error}, "required": ["error"]}
