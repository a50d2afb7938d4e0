"""What the data room costs: an item over the bare decoder and resize, and a dataset of iNaturalist's size.

Speed: every image is decoded and resized with OpenCV alone, and made into an item of a dataset, one right after the
other; medians of the processor's time are compared, so that a busy machine slows both alike. The images are drawn,
500 x 375 JPEGs with a photograph's spectrum, or those of ``--images FOLDER``. For these the same is said of decoding at
half size (``fgbench/data/images.py`` tells why that is not done).

Scale: a synthetic index of 675,170 images, of which a few are there, is opened, shuffled, resumed and evaluated.

``python benchmarks/data.py [--images FOLDER] [--rounds 10] [--count 675170]``
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import DataLoader

from fgbench.data.dataset import ImageDataset, collate
from fgbench.data.images import image_sizes
from fgbench.data.index import read_digests, read_index, read_ranks, write_index
from fgbench.data.listing import Listing
from fgbench.data.samplers import EvalBatches, TrainBatches
from fgbench.data.view import View

AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
VIEWS = {
    "squash 224, flip": View("squash", 224, flip=0.5),
    "short 256, centre crop 224": View("short", 256, "centre", 224),
    "short 256, random crop 224, flip, brightness": View("short", 256, "random", 224, flip=0.5, brightness=0.1),
    "short 448, random crop 448, flip, brightness": View("short", 448, "random", 448, flip=0.5, brightness=0.1),
}


def draw(folder: Path, count: int = 40) -> list[Path]:
    """JPEGs of 500 x 375 whose amplitudes fall with frequency as a photograph's do."""
    rng = np.random.default_rng(0)
    y, x = np.fft.fftfreq(375)[:, None], np.fft.fftfreq(500)[None]
    fall = 1 / np.maximum(np.hypot(x, y), 1 / 500)
    paths = []
    for number in range(count):
        planes = [np.fft.ifft2(np.fft.fft2(rng.standard_normal((375, 500))) * fall).real for _ in range(3)]
        image = planes[0][..., None] + 0.3 * np.stack(planes, axis=-1)
        image = 128 + 45 * (image - image.mean()) / image.std()
        paths.append(folder / f"{number}.jpg")
        cv2.imwrite(str(paths[-1]), image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92])
    return paths


def listing_of(folder: Path, names: list[str], sizes: np.ndarray, boxes: int = 1, marks: int = 15) -> Listing:
    n = len(names)
    return Listing(
        folder=folder,
        names=np.array([name.encode() for name in names]),
        image_id=np.arange(n),
        target=np.arange(n) % 5089,
        split=(np.arange(n) >= n * 579_184 // 675_170).astype(np.int64),
        boxes=np.tile([10.0, 20.0, 200.0, 300.0], (n * boxes, 1)),
        box_start=np.arange(n + 1) * boxes,
        landmarks=np.full((n, marks, 2), 100.0),
        visible=np.ones((n, marks), np.bool_),
        label_names=tuple(map(str, range(5089))),
        landmark_names=tuple(map(str, range(marks))),
        sizes=sizes,
    )


def speed(paths: list[Path], rounds: int) -> None:
    sizes = image_sizes(paths)
    listing = listing_of(Path("/"), [str(path.resolve()).lstrip("/") for path in paths], sizes)
    print(f"{len(paths)} JPEGs, {rounds} rounds; milliseconds per image on one core")
    for name, view in VIEWS.items():
        dataset, bare, item = ImageDataset(listing, view), [], []
        for draw_key in range(rounds):
            for row, path in enumerate(paths):
                height, width = view.resized(*sizes[row].tolist())
                smaller = height < sizes[row, 0] or width < sizes[row, 1]
                start = time.process_time()
                image = cv2.imdecode(np.fromfile(path, np.uint8), AS_STORED)
                cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
                middle = time.process_time()
                dataset[row, draw_key]
                item.append(1000 * (time.process_time() - middle))
                bare.append(1000 * (middle - start))
        a, b = statistics.median(bare), statistics.median(item)
        print(f"  {name:<46} decoder + resize {a:5.2f}  item {b:5.2f}  speed of the bare {100 * a / b:5.1f} %")


def reduced(paths: list[Path]) -> None:
    """Decoding at half size where the result is at most that large: what it saves, and what it changes."""
    print("decoding at half size, then resized down to")
    for size in (160, 112, 64):
        difference, whole, half = [], [], []
        for path in paths:
            data = np.fromfile(path, np.uint8)
            start = time.process_time()
            full = cv2.imdecode(data, AS_STORED)
            middle = time.process_time()
            small = cv2.imdecode(data, cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]
            half.append(time.process_time() - middle)
            whole.append(middle - start)
            if min(full.shape[:2]) < 2 * size:
                continue
            made = [
                cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=cv2.INTER_AREA).astype(float)
                for image in (full, small)
            ]
            difference.append(np.abs(made[0] - made[1]).mean())
        shown = f"{np.mean(difference):.2f} of 255 on average" if difference else "no image is large enough"
        saved = 100 * (1 - statistics.median(half) / statistics.median(whole))
        print(f"  {size:>3} px: {saved:.0f} % of the decoding saved, values differ by {shown}")


def resident(*kinds: str, pid: int | str = "self") -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(kinds)) / 1e3


def scale(paths: list[Path], folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    names = [f"train_val_images/Plantae/Genus species{i % 5089:05d}/{i:032x}.jpg" for i in range(count)]
    real = rng.permutation(count)[: len(paths)]
    listing = listing_of(folder, names, np.full((count, 2), 500, np.int32), boxes=0, marks=0)
    boxes = np.where(rng.random(count) < 0.6, rng.geometric(0.8, count), 0)
    boxes[7] = 130  # one image has that many
    start = np.concatenate([[0], np.cumsum(boxes)])
    sizes = np.stack([np.full(count, 375), 500 - np.arange(count) % 100], axis=1).astype(np.int32)
    sizes[real] = image_sizes(paths)
    object.__setattr__(listing, "boxes", rng.uniform(0, 300, (int(start[-1]), 4)))
    object.__setattr__(listing, "box_start", start)
    object.__setattr__(listing, "sizes", sizes)
    for row, path in zip(real.tolist(), paths, strict=True):
        listing.path(row).parent.mkdir(parents=True, exist_ok=True)
        listing.path(row).write_bytes(path.read_bytes())
    write_index(folder / "large.parquet", listing, folder, [])
    few = listing_of(folder, names[:10], sizes[:10], boxes=0, marks=0)
    write_index(folder / "small.parquet", few, folder, [])
    del listing, boxes, start, sizes, names, few
    read_index(folder / "small.parquet", folder, "")  # what the library needs at first
    before, clock = resident("Rss"), time.perf_counter()
    listing = read_index(folder / "large.parquet", folder, "")
    seconds = time.perf_counter() - clock
    print(f"{count:,} images, index of {(folder / 'large.parquet').stat().st_size / 1e6:.0f} MB")
    print(f"  opened in {seconds:.2f} s, {resident('Rss') - before:.0f} MB more in memory")
    clock = time.perf_counter()
    train, test = listing.rows("train"), listing.rows("test")
    batches = TrainBatches(train, 128, 0)
    batches.set_epoch(3)
    next(iter(batches))
    print(f"  an epoch begun, or resumed, in {time.perf_counter() - clock:.2f} s")
    clock = time.perf_counter()
    evaluation = EvalBatches(test, 128, View("short", 320, multiple=16).shapes(listing.stored_sizes()[test]))
    seen = sum(len(batch) for batch in evaluation)
    print(f"  {seen:,} of {len(test):,} test images dealt in {len(evaluation):,} batches of one shape, "
          f"{time.perf_counter() - clock:.2f} s")  # fmt: skip
    clock = time.perf_counter()
    listing.with_validation(0.1, read_ranks(folder / "large.parquet"))
    cut, clock = time.perf_counter() - clock, time.perf_counter()
    stored = read_digests(folder / "large.parquet")["0.0"]
    read, clock = time.perf_counter() - clock, time.perf_counter()
    same = listing.digest() == stored
    computed = time.perf_counter() - clock
    print(
        f"  validation cut in {cut:.2f} s; digest read in {read:.2f} s, computed in {computed:.2f} s "
        f"({'the same' if same else 'ANOTHER'})\n  all in all {resident('Rss') - before:.0f} MB more in memory"
    )
    keys = [[(row, 0)] for row in real.tolist()]
    for workers in (1, 4):
        loader = DataLoader(
            ImageDataset(listing, View("squash", 224)),
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=True,
        )
        running = iter(loader)
        next(running)
        own = [resident("Private", pid=worker.pid) for worker in running._workers]
        print(f"  {workers} workers: {max(own):.0f} MB at most of a worker's own, {len(list(running)) + 1} images read")
        del running, loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of JPEGs; default: drawn ones")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--count", type=int, default=675_170, help="of images in the synthetic index")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(options.images.rglob("*.jpg"))[:100] if options.images else draw(Path(folder))
        if not paths:
            parser.error(f"{options.images}: no .jpg file in it or below it")
        speed(paths, options.rounds)
        reduced(paths)
        scale(paths, Path(folder), options.count)


if __name__ == "__main__":
    main()
