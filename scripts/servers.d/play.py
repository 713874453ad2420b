"""A server on Python's websockets: play.py PORT PLAN. See plan.py.

/play?WHO plays the plan and closes, with the next code for each connection of WHO; /stream sends
numbered messages until it ends; /idle sends one message and nothing more.
"""

import asyncio
import base64
import json
import sys
from collections import Counter

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

PLAN = json.load(open(sys.argv[2], encoding="ascii"))
PONG_S, STREAM_EVERY_S = 10, 0.002
played = Counter()


async def play(socket, who):
    """All steps, then a close; a pong that doesn't come ends it with 4999."""
    code = PLAN["codes"][played[who] % len(PLAN["codes"])]
    played[who] += 1
    for kind, frames in PLAN["steps"]:
        frames = [base64.b64decode(frame) for frame in frames]
        if kind == "ping":
            try:
                await asyncio.wait_for(await socket.ping(frames[0]), PONG_S)
            except TimeoutError:
                await socket.close(4999)
                return
        else:
            await socket.send(frames[0] if len(frames) == 1 else frames, text=kind == "text")
    await socket.close(code, "bye")


async def stream(socket):
    """Until somebody ends it."""
    number = 0
    while True:
        await socket.send('{"n":%d,"pad":"%s"}\n' % (number, "x" * (number * 37 % 200)))
        number += 1
        await asyncio.sleep(STREAM_EVERY_S)


async def handle(socket):
    """One connection."""
    path = socket.request.path
    try:
        if path.startswith("/play"):
            await play(socket, path)
        elif path == "/stream":
            await stream(socket)
        else:
            await socket.send("one")
            await socket.wait_closed()
    except ConnectionClosed:
        pass  # the recorder has what it wanted, or the proxy ended it


async def main():
    """Until it is killed."""
    async with serve(handle, "127.0.0.1", int(sys.argv[1]), ping_interval=None):
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
