"""An emulator of Google Cloud Storage that keeps preconditions: ``python -m benchmarks.gcs_server PORT``.

``gcp-storage-emulator`` answers one request after the other and does not know ``ifGenerationMatch``, with which the real service
creates an object only where there is none. Here a write with ``ifGenerationMatch=0`` to a name that is taken ends with 412, as
https://cloud.google.com/storage/docs/request-preconditions says; of a resumable upload both its beginning and its end. The bucket
`FORBIDDEN` answers 403 to everything.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator import server
from gcp_storage_emulator.handlers import objects

FORBIDDEN = "forbidden"


def _say(response: Any, status: HTTPStatus, message: str) -> None:
    response.status = status
    response.json({"error": {"code": status.value, "message": message, "errors": [{"message": message}]}})


def _guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(request: Any, response: Any, storage: Any, *arguments: Any, **options: Any) -> Any:
        bucket = request.params.get("bucket_name")
        if bucket == FORBIDDEN:
            request.data  # noqa: B018  # what is sent is read, so that the client hears the answer
            return _say(response, HTTPStatus.FORBIDDEN, "the caller does not have storage.objects access")
        if request.query.get("ifGenerationMatch") == ["0"]:
            name = request.query.get("name", [None])[0]
            if name is None and "upload_id" in request.query:
                name = storage.get_resumable_file_obj(request.query["upload_id"][0])["name"]
            if name is None:
                data = request.data
                name = (data.get("meta") or data)["name"]
            if name in storage.objects.get(bucket, {}):
                return _say(response, HTTPStatus.PRECONDITION_FAILED, "conditionNotMet")
        return handler(request, response, storage, *arguments, **options)

    return guarded


def main() -> None:
    """Serve until killed."""
    logging.disable(logging.ERROR)
    objects.insert = _guarded(objects.insert)
    server.HANDLERS = tuple(
        (pattern, {method: _guarded(handler) for method, handler in handlers.items()}) for pattern, handlers in server.HANDLERS
    )
    server.Storage._write_config_to_file = lambda self: None  # it is in memory, and writes all its names at every put
    server.Server("127.0.0.1", int(sys.argv[1]), in_memory=True).run()


if __name__ == "__main__":
    main()
