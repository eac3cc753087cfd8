"""Several prompts about one image, which is sent once, with events as they come:

python conversation.py URL IMAGE PROMPT [PROMPT ...]
"""

import sys

from chord_client import Client, Completed, ObjectFound


def main() -> None:
    url, image, *prompts = sys.argv[1:]
    with Client(url) as chord:
        handle = chord.upload(image)
        print(f"{handle.image_id} until {handle.expires_at:%H:%M:%S} UTC")
        for prompt in prompts:
            for event in chord.ground_stream(handle, prompt):
                if isinstance(event, ObjectFound):
                    print(f"{prompt}: {event.label} at {tuple(event.box)}")
                elif isinstance(event, Completed):
                    answer = event.answer
                    print(
                        f"{prompt}: {len(answer.objects)} found, cache {answer.usage.cache},"
                        f" {answer.timing.total_ms:.0f} ms"
                    )
        chord.delete(handle)


if __name__ == "__main__":
    main()
