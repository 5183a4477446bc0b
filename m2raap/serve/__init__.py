"""A search page and its JSON API over HTTP, by the standard library alone. What answers queries is given to it.

    GET  /healthz                                            {"status": "ok"}; needs no token
    GET  /api/about                                          clips, langs, sources, model, examples
    GET  /api/search?q=TEXT&top=N[&source=&min_s=&max_s=]    {"hits": [...]}
    GET  /api/like/ID?top=N[&source=&min_s=&max_s=]          {"hits": [...]}
    POST /api/image?top=N[&source=&min_s=&max_s=]            body: image/jpeg, image/png or image/webp
    GET  /frames/ID/N.jpg                                    key-frame N of a clip, counted in time
    GET  /video/ID                                           the clip's file; Range requests are answered
    GET  /                                                   the page

A hit: rank, score, clip_id, video, start_s, end_s, duration_s, source, category, width and height of its key-frames (null:
unknown), captions [{lang, text, origin}], frames [{n, time_s, score}] with the best first. An error: {"error": sentence} and 400,
401, 403, 404, 405, 411, 413, 414, 415, 416 or 503. IDs are percent-encoded. Where a token is needed: `Authorization: Bearer
TOKEN`, or open /?token=TOKEN once.
"""
