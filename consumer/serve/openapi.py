"""Build the OpenAPI document of the synchronous API."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from consumer.pipeline.validate import CROSS_FIELD_RULES
from consumer.serve.requests import EXAMPLE, BatchRequest, PredictionRequest
from consumer.settings import ServeSettings

_PREDICTION: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "predicted_purchase_probability": {"type": "number", "minimum": 0, "maximum": 1},
        "predicted_purchase": {"type": "integer", "enum": [0, 1]},
    },
    "required": ["predicted_purchase_probability", "predicted_purchase"],
    "examples": [{"predicted_purchase_probability": 0.7834, "predicted_purchase": 1}],
}
_FEATURE_VALUE: Final[dict[str, Any]] = {"type": ["number", "string"]}
_EXPLANATION: Final[dict[str, Any]] = {
    "type": "object",
    "description": "The amounts, in `unit`, that the features add to the score of a reference student.",
    "properties": {
        "model_version": {"type": "string"},
        "unit": {"type": "string", "enum": ["log_odds", "probability"]},
        "reference": {"type": "object", "additionalProperties": _FEATURE_VALUE},
        "base": {"type": "number", "description": "The score of the reference student."},
        "contributions": {
            "type": "array",
            "items": {
                "type": "object",
                "description": "`log_odds` or `probability` is the amount.",
                "properties": {
                    "feature": {"type": "string"},
                    "value": _FEATURE_VALUE,
                    "log_odds": {"type": "number"},
                    "probability": {"type": "number"},
                },
                "required": ["feature", "value"],
            },
        },
        "total": {"type": "number", "description": "The base and all amounts: the score."},
    },
    "required": ["model_version", "unit", "reference", "base", "contributions", "total"],
}
_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "detail": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "type": {"type": "string"},
                            "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                            "msg": {"type": "string"},
                        },
                        "required": ["type", "loc", "msg"],
                    },
                },
            ]
        }
    },
    "required": ["detail"],
}
_ERRORS: Final = {
    400: "The request is not valid HTTP.",
    413: "The body is too large. It was not read.",
    415: "The body is not `application/json`.",
    421: "The host name is not allowed; see the setting `http.allowed_hosts`.",
    422: "The body is not a valid request. At most 20 errors are listed.",
    500: "The model or the server fails.",
    503: "No model is loaded, or Kafka does not take the prediction. Retry with the same `event_id`.",
}


def document(limits: ServeSettings) -> dict[str, Any]:
    """Return the document."""
    _, definitions = models_json_schema(
        [(PredictionRequest, "validation"), (BatchRequest, "validation")],
        ref_template="#/components/schemas/{model}",
    )
    schemas = definitions["$defs"]
    records: dict[str, Any] = {"minItems": 1, "maxItems": limits.max_records}
    schemas["BatchRequest"]["properties"]["records"] |= records
    request = {"$ref": "#/components/schemas/PredictionRequest"}
    prediction = {"$ref": "#/components/schemas/Prediction"}
    explanation = {"anyOf": [{"$ref": "#/components/schemas/Explanation"}, {"type": "null"}]}
    predictions = {"type": "array", "items": prediction}
    health = {"ready": "boolean", "predictor_loaded": "boolean", "drift_baseline_loaded": "boolean"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Purchase Stream",
            "version": version("purchase-stream"),
            "description": "Will this student buy? Answers one student or a list of students at once.",
        },
        "paths": {
            "/predict": {
                "post": {
                    "operationId": "predict",
                    "summary": "Predict for one student",
                    "description": "Also refused: "
                    + " ".join(f"`{rule.detail}`" for rule in CROSS_FIELD_RULES),
                    "parameters": [
                        {
                            "name": "Idempotency-Key",
                            "in": "header",
                            "description": "Used as `event_id` if the body names none.",
                            "schema": {"type": "string", "minLength": 1, "maxLength": 128},
                        },
                        {
                            "name": "explain",
                            "in": "query",
                            "description": "Whether to answer with the reasons, too, as `explanation`; "
                            "null if the version that made the prediction was removed.",
                            "schema": {"type": "boolean", "default": False},
                        },
                    ],
                    "requestBody": _body(request, EXAMPLE),
                    "responses": _answers(
                        {"allOf": [prediction], "properties": {"explanation": explanation}}
                    ),
                }
            },
            "/batch_predict": {
                "post": {
                    "operationId": "batch_predict",
                    "summary": "Predict for several students, all or none",
                    "description": "A bare list is answered with a bare list.",
                    "requestBody": _body(
                        {
                            "anyOf": [
                                {"$ref": "#/components/schemas/BatchRequest"},
                                {"type": "array", "items": request, **records},
                            ]
                        },
                        {"records": [EXAMPLE]},
                    ),
                    "responses": _answers(
                        {
                            "anyOf": [
                                {
                                    "type": "object",
                                    "properties": {"predictions": predictions},
                                    "required": ["predictions"],
                                },
                                predictions,
                            ]
                        }
                    ),
                }
            },
            "/health": {
                "get": {
                    "operationId": "health",
                    "summary": "Tell what is loaded",
                    "responses": {
                        "200": _answer(
                            "Always, whether ready or not.",
                            {
                                "type": "object",
                                "properties": {name: {"type": kind} for name, kind in health.items()},
                                "required": list(health),
                            },
                        ),
                        "400": _refusal(400),
                        "421": _refusal(421),
                    },
                }
            },
        },
        "components": {
            "schemas": schemas | {"Prediction": _PREDICTION, "Explanation": _EXPLANATION, "Error": _ERROR}
        },
    }


def _body(schema: dict[str, Any], example: Any) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def _answers(schema: dict[str, Any]) -> dict[str, Any]:
    return {"200": _answer("The prediction.", schema)} | {str(code): _refusal(code) for code in _ERRORS}


def _answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _refusal(code: int) -> dict[str, Any]:
    return _answer(_ERRORS[code], {"$ref": "#/components/schemas/Error"})
