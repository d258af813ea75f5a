"""A CloudEvent, as the API's description has it."""

from typing import Any, Final

EXAMPLE: Final = {
    "specversion": "1.0",
    "id": "order-42",
    "source": "/shop",
    "type": "order.paid",
    "subject": "order/42",
    "data": {"order": 42},
}
CLOUD_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1, "description": "With the source it is taken once."},
        "source": {"type": "string", "minLength": 1, "description": "A URI reference: who tells it."},
        "type": {"type": "string", "minLength": 1},
        "subject": {"type": ["string", "null"], "minLength": 1},
        "time": {"type": ["string", "null"], "format": "date-time"},
        "datacontenttype": {"type": ["string", "null"], "minLength": 1},
        "dataschema": {"type": ["string", "null"], "minLength": 1},
        "data": {"description": "Any JSON."},
        "data_base64": {"type": ["string", "null"], "description": "JSON or text in base64, instead of data."},
    },
    "required": ["specversion", "id", "source", "type"],
    "examples": [EXAMPLE],
    "description": "CloudEvents 1.0. Further attributes have names of lower-case letters and digits.",
}
CLOUD_EVENT_REF: Final = {"$ref": "#/components/schemas/CloudEvent"}
