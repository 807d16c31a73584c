"""Images a second of `autotl serve` under load against `autotl predict`'s, seconds of single requests, and cold starts.

    python tests/bench/serve.py MODEL IMAGES [--clients 32] [--seconds 10]

The server runs in a process of its own, as people start it; the clients, which share the machine with it, in this one.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2

HEADERS = {"content-type": "image/jpeg"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("images", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    contents = [path.read_bytes() for path in sorted(given.images.rglob("*.jpg"))[:512]]
    with subprocess.Popen(
        [sys.executable, "-m", "autotl", "serve", given.model, "--port", "0", "--device", "cpu"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        url = process.stdout.readline().split()[0]
        try:
            single = asyncio.run(one_by_one(url, contents[:60]))
            before = cpu_seconds(url)
            served, seconds = asyncio.run(load(url, contents, given.clients, given.seconds))
            used = cpu_seconds(url) - before
        finally:
            process.send_signal(signal.SIGINT)
    rounds = [predicted(given.model, contents) for _ in range(1)]
    single.sort()
    print(
        json.dumps(
            {
                "images": len(contents),
                "clients": given.clients,
                "served_per_second": round(served / seconds, 1),
                "server_cpu_ms_per_image": round(1000 * used / served, 2),
                "predict_per_second": round(rounds[0][0], 1),
                "predict_cpu_ms_per_image": round(rounds[0][1], 2),
                "single_ms": {name: round(1000 * single[int(share * (len(single) - 1))], 1) for name, share in SHARES},
                "exit": process.returncode,
            },
            indent=2,
        )
    )


SHARES = (("best", 0.0), ("median", 0.5), ("90 %", 0.9))


async def one_by_one(url: str, contents: list[bytes]) -> list[float]:
    """Seconds of requests of one image each, one after the other."""
    seconds = []
    async with httpx2.AsyncClient(timeout=60) as client:
        for content in contents:
            began = time.perf_counter()
            (await client.post(f"{url}predict", content=content, headers=HEADERS)).raise_for_status()
            seconds.append(time.perf_counter() - began)
    return seconds


async def load(url: str, contents: list[bytes], clients: int, seconds: float) -> tuple[int, float]:
    """The number of images that clients got answers to, and the seconds that it took."""
    began = time.perf_counter()

    async def ask(number: int) -> int:
        done = 0
        async with httpx2.AsyncClient(timeout=60) as client:
            while time.perf_counter() - began < seconds:
                content = contents[(number + done * clients) % len(contents)]
                (await client.post(f"{url}predict", content=content, headers=HEADERS)).raise_for_status()
                done += 1
        return done

    done = await asyncio.gather(*map(ask, range(clients)))
    return sum(done), time.perf_counter() - began


def cpu_seconds(url: str) -> float:
    lines = httpx2.get(f"{url}metrics", timeout=60).text.splitlines()
    return float(next(line for line in lines if line.startswith("process_cpu_seconds_total")).split()[1])


def predicted(model: str, contents: list[bytes]) -> tuple[float, float]:
    """Images a second, and milliseconds of CPU an image, of the model in this process, once it is compiled."""
    from autotl.config import find_model
    from autotl.model.image_model import load

    loaded = load(find_model(model), "cpu")
    whole = [contents[i % len(contents)] for i in range(512)]
    loaded.predict_proba(whole[:300])  # compiles
    began, used = time.perf_counter(), sum(os.times()[:2])
    loaded.predict_proba(whole)
    return len(whole) / (time.perf_counter() - began), 1000 * (sum(os.times()[:2]) - used) / len(whole)


if __name__ == "__main__":
    main()
