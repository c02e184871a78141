"""A draft server in a process of its own: ``python -m loadtests.speculation.drafter MODEL CORE [SETTING=JSON ...]``."""

import asyncio
import json
import sys
from collections.abc import Sequence

from experts.api import DraftPeer
from experts.config import DraftEngine
from experts.models import fetched_directory
from experts.speculation.server import DraftServer
from loadtests.speculation.children import die_with_parent
from loadtests.speculation.messages import Listening
from loadtests.speculation.verifier import Talk

HOST = "127.0.0.1"
SESSIONS = 256
"""Enough for all that a trace has in flight."""


async def serve(model: str, core: int, talk: Talk, settings: dict[str, object]) -> None:
    """Until the benchmark says quit, or its pipe closes."""
    config = DraftEngine.model_validate({"cores": (core,), "max_sessions": SESSIONS, **settings})
    server = DraftServer(config, fetched_directory(model))
    endpoint = await server.start(HOST)
    talk.say(Listening(DraftPeer("draft-0", server.life, endpoint)))
    await asyncio.to_thread(talk.hear)
    await server.stop()


def main(words: Sequence[str]) -> None:
    die_with_parent()
    model, core, *settings = words
    pairs = (each.partition("=") for each in settings)
    asyncio.run(serve(model, int(core), Talk(), {name: json.loads(value) for name, _, value in pairs}))


if __name__ == "__main__":
    main(sys.argv[1:])
