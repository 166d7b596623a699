"""OpenAPI parts that FastAPI cannot derive (bodies are read by hand): two forms of a request, four of an answer."""

from __future__ import annotations

from typing import Any

from serve.schema import BatchRequest, Problem, SegmentOptions, SegmentRequest, SegmentResponse

EXAMPLE_OPTIONS = {"vocabulary": "red button; green flag; water(stuff)", "task": "panoptic", "format": "json"}
_REF = "#/components/schemas/{model}"

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}},
    }
    for status, text in (
        (400, "The body cannot be read."),
        (401, "A bearer token is needed."),
        (413, "The image or the request is too large."),
        (415, "Neither multipart/form-data nor application/json."),
        (422, "A field is wrong; `errors` names it."),
        (429, "Too many requests at once; see Retry-After."),
        (431, "The headers are too large."),
        (500, "A defect of the server."),
        (503, "Busy, or not answered in time; see Retry-After."),
    )
}

SEGMENT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "options"],
                    "additionalProperties": False,
                    "properties": {
                        "image": {"type": "string", "format": "binary", "description": "The image file."},
                        "options": {
                            "type": "string",
                            "description": "SegmentOptions as JSON text.",
                            "contentMediaType": "application/json",
                            "examples": ['{"vocabulary": "red button; green flag; water(stuff)"}'],
                        },
                    },
                }
            },
            "application/json": {
                "schema": {"$ref": _REF.format(model="SegmentRequest")},
                "examples": {
                    "base64": {"value": {"image": {"base64": "iVBORw0KGgo..."}, "options": EXAMPLE_OPTIONS}},
                },
            },
        },
    }
}

BATCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": _REF.format(model="BatchRequest")},
                "examples": {
                    "base64": {
                        "value": {
                            "images": [{"base64": "iVBORw0KGgo..."}, {"base64": "/9j/4AAQSkZJRg..."}],
                            "options": EXAMPLE_OPTIONS,
                        }
                    },
                },
            }
        },
    }
}

EXAMPLE_ANSWER: dict[str, Any] = {
    "request_id": "5b1f0f6e2b4a4b6c9d0e8f7a6b5c4d3e",
    "model": "miniature",
    "task": "panoptic",
    "size": [96, 96],
    "categories": [
        {"id": 0, "name": "red button", "synonyms": [], "is_thing": True, "seen": True, "color": "#d62728"},
    ],
    "segments": [
        {
            "id": 1,
            "category_id": 0,
            "category": "red button",
            "is_thing": True,
            "score": 0.98,
            "area": 24,
            "bbox": [2, 2, 6, 4],
            "mask": {"size": [96, 96], "counts": "R64l2000000000nW8"},
        }
    ],
    "warnings": [],
}

SEGMENT_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The segments, in the format asked for.",
        "headers": {
            "Server-Timing": {"description": "Milliseconds by stage.", "schema": {"type": "string"}},
            "X-Request-Id": {"description": "Names this request in the log.", "schema": {"type": "string"}},
        },
        "content": {
            "application/json": {
                "schema": {"$ref": _REF.format(model="SegmentResponse")},
                "examples": {"one segment": {"value": EXAMPLE_ANSWER}},
            },
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "application/zip": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    **PROBLEMS,
}


def add_schemas(document: dict[str, Any]) -> dict[str, Any]:
    """Puts the models that the parts above refer to into the document's components."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for model in (SegmentRequest, SegmentOptions, BatchRequest, SegmentResponse, Problem):
        schema = model.model_json_schema(ref_template=_REF)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    return document
