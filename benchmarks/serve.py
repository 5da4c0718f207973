"""Load-test a local server with OpenAI's client, including killed clients and bad requests.

    python benchmarks/serve.py                          # 200 requests, 8 at once
    python benchmarks/serve.py --requests 1000 --at-once 16

Starts ``vtc serve --model shipped`` and asks it about synthetic videos. Of ten requests, two upload
their video, two stream, one has a wrong key, one a broken file, and one is sent by a process that
is killed with SIGKILL. All others must get the same answer as when they are sent alone.
"""

from __future__ import annotations

import argparse
import base64
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai

KEY = "a key"
KINDS = ["file", "file", "file", "upload", "upload", "stream", "stream", "key", "broken", "killed"]


class Load:
    """Sends the requests and counts their outcomes."""

    def __init__(self, url: str, videos: list[Path], broken: Path) -> None:
        self.url, self.videos, self.broken = url, videos, broken
        self.answers: dict[tuple[int, str], str] = {}
        self.seconds: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self.lock = threading.Lock()

    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=50, timeout=300)

    def ask(self, place: str, question: str, key: str = KEY, stream: bool = False) -> str:
        content = [
            {"type": "video_url", "video_url": {"url": place}},
            {"type": "text", "text": question},
        ]
        messages = [{"role": "user", "content": content}]
        reply = self.client(key).chat.completions.create(
            model="shipped", messages=messages, max_tokens=8, temperature=0, stream=stream
        )
        if stream:
            return "".join(e.choices[0].delta.content or "" for e in reply if e.choices)
        return reply.choices[0].message.content

    def send(self, number: int) -> None:
        """Send a request and record its outcome."""
        rng = random.Random(number)
        kind, video = KINDS[number % len(KINDS)], rng.randrange(len(self.videos))
        question = rng.choice(QUESTIONS)
        place, start = self.videos[video].as_uri(), time.perf_counter()
        try:
            if kind == "killed":
                outcome = self.killed(place, question, rng.uniform(0.1, 4.0))
            elif kind == "key":
                outcome = self.ask(place, question, key="a wrong key")
            elif kind == "broken":
                outcome = self.ask(self.broken.as_uri(), question)
            else:
                if kind == "upload":
                    content = base64.b64encode(self.videos[video].read_bytes()).decode()
                    place = f"data:video/mp4;base64,{content}"
                answer = self.ask(place, question, stream=kind == "stream")
                right = answer == self.answers[video, question]
                outcome = "right answer" if right else f"WRONG ANSWER {answer!r}"
                with self.lock:
                    self.seconds.append(time.perf_counter() - start)
        except openai.APIStatusError as error:
            outcome = f"status {error.status_code}"
        except openai.APIError as error:
            outcome = f"LOST: {type(error).__name__}"
        with self.lock:
            self.outcomes[f"{kind}: {outcome}"] += 1

    def killed(self, place: str, question: str, after: float) -> str:
        """Ask from a separate process and kill it."""
        process = multiprocessing.get_context("fork").Process(
            target=self.ask, args=(place, question), daemon=True
        )
        process.start()
        process.join(after)
        if process.exitcode is not None:
            return "answered before the kill"
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        return "was killed"

    def metric(self, name: str) -> float:
        headers = {"authorization": f"Bearer {KEY}"}
        page = httpx.get(self.url.removesuffix("v1") + "metrics", headers=headers).text
        return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))


QUESTIONS = ["What colour is the moon?", "What colour is the star?", "What shape is red?"]


def main() -> None:
    """Run the load test and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=20, help="length of each video")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = write_videos(folder, options.seconds)
        broken = folder / "broken.mp4"
        broken.write_bytes(videos[0].read_bytes()[:2000])
        process, url = start(folder)
        try:
            run(Load(url, videos, broken), options.requests, options.at_once)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def write_videos(folder: Path, seconds: int) -> list[Path]:
    """Write three videos in a separate process, so that this one can fork."""
    code = (
        "import sys, vtc\n"
        "for seed in range(3):\n"
        "    frames = vtc.testing.moving_squares(seconds=int(sys.argv[2]), seed=seed)\n"
        "    vtc.testing.write_video(f'{sys.argv[1]}/{seed}.mp4', frames)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), str(seconds)], check=True)
    return [folder / f"{seed}.mp4" for seed in range(3)]


def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start the server and wait until it answers."""
    words = ["serve", "--model", "shipped", "--port", "0", "--video-root", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "vtc.cli", *words, "--api-key-env", "VTC_BENCHMARK_KEY"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "VTC_BENCHMARK_KEY": KEY},
    )
    assert process.stderr is not None
    url = next(line for line in process.stderr if " answers at " in line).split()[-1]
    threading.Thread(target=process.stderr.read, daemon=True).start()
    while True:
        try:
            httpx.get(url.removesuffix("v1") + "health")
            return process, url
        except httpx.ConnectError:
            time.sleep(0.1)


def run(load: Load, requests: int, at_once: int) -> None:
    """Ask every question alone, then send all requests concurrently."""
    for video, path in enumerate(load.videos):
        for question in QUESTIONS:
            load.answers[video, question] = load.ask(path.as_uri(), question)
    resident = "process_resident_memory_bytes"
    memory, tenth = [load.metric(resident)], max(1, requests // 10)
    start = time.perf_counter()
    for first in range(0, requests, tenth):
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(load.send, range(first, min(first + tenth, requests))))
        memory.append(load.metric(resident))
        print(f"{first + tenth} requests, {memory[-1] / 2**20:.0f} MiB", file=sys.stderr)
    seconds = time.perf_counter() - start
    for outcome, count in sorted(load.outcomes.items()):
        print(f"{count:5d}  {outcome}")
    answered = sorted(load.seconds)
    print(f"{requests / seconds:.1f} requests per second, {at_once} at once, {seconds:.0f} s")
    print(
        f"seconds per answer: median {statistics.median(answered):.2f}, "
        f"95 % {answered[int(len(answered) * 0.95)]:.2f}, maximum {answered[-1]:.2f}"
    )
    print("MiB of the server after each tenth:", *(round(size / 2**20) for size in memory))
    print(
        f"running {load.metric('vtc_running'):.0f}, waiting {load.metric('vtc_waiting'):.0f}, "
        f"clients that left {load.metric('vtc_disconnects_total'):.0f}"
    )


if __name__ == "__main__":
    main()
