"""The page at `/`: static files that call `/refine` and `/v1/models` as any client does.

A page of its own and not Gradio, because Gradio holds Pillow below 13, loads fonts from a CDN, and
runs its handlers in the server, past the queue, the limits and the key of the routes. Here the
browser sends the same requests as other clients, so what holds for those holds for the page. The
server stores nothing of a user: history and key are in the browser.
"""

import functools
from pathlib import Path

import fastapi
from starlette.responses import Response

FOLDER = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/page.js": ("page.js", "text/javascript"),
    "/page/differences.js": ("differences.js", "text/javascript"),
    "/page/history.js": ("history.js", "text/javascript"),
    "/page/preview.js": ("preview.js", "text/javascript"),
    "/page/server.js": ("server.js", "text/javascript"),
}
# only what this server sends is loaded; no text becomes a script, in no frame of another page
POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "media-src blob:",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
HEADERS = {
    "Content-Security-Policy": "; ".join(POLICY),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page(app: fastapi.FastAPI, has_preview: bool) -> None:
    """Add the routes of `FILES`.

    Args:
      has_preview: the server makes videos.
    """
    for route, (name, media_type) in FILES.items():
        content = (FOLDER / name).read_bytes()
        if has_preview:
            content = content.replace(b'<div id="preview" hidden', b'<div id="preview"')
        send = functools.partial(_send, content, media_type)
        app.add_api_route(route, send, include_in_schema=False)


async def _send(content: bytes, media_type: str) -> Response:
    return Response(content, headers=HEADERS, media_type=media_type)
