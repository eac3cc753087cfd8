"""Many images at once with asyncio:  python async_many.py URL PROMPT IMAGE [IMAGE ...]"""

import asyncio
import sys

from chord_client import AsyncClient, ChordError


async def main() -> int:
    url, prompt, *images = sys.argv[1:]
    at_once = asyncio.Semaphore(8)

    async with AsyncClient(url) as chord:

        async def one(image: str) -> bool:
            async with at_once:
                try:
                    answer = await chord.ground(image, prompt)
                except ChordError as error:
                    print(f"{image}: {error}", file=sys.stderr)
                    return False
            sure = "?" if answer.confidence is None else f"{answer.confidence:.2f}"
            print(f"{image}: {[tuple(box) for box in answer.boxes]} {sure}")
            return True

        return 0 if all(await asyncio.gather(*map(one, images))) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
