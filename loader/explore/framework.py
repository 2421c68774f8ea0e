"""Flask, or one line that says how to install it."""

try:
    from flask import Flask, Response, abort, jsonify, request, send_from_directory
    from werkzeug.exceptions import HTTPException
    from werkzeug.serving import WSGIRequestHandler, make_server
except ImportError as error:
    raise ImportError(
        f"Flask cannot be imported ({error}): pip install 'pretexture[explore]'"
    ) from error

__all__ = [
    "Flask",
    "HTTPException",
    "Response",
    "WSGIRequestHandler",
    "abort",
    "jsonify",
    "make_server",
    "request",
    "send_from_directory",
]
