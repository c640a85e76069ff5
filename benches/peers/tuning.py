"""Settings of the contestants, and those that are fastest for one; shared by run.py, peer.py and fastembed_peer.py."""

# Tokens of a caption at most, and at least: where a model has many end tokens, captions differ in length.
TOKENS = 20

BATCHES = (1, 4, 16, 32)
# A run takes 16, or twice as many where a long one has found them faster by this.
BATCHES_OF_OURS = (16, 32)
BETTER = 0.95
# A smaller batch, with which processes begin sooner, is tried too if it is as good as this.
NEARLY = 0.9
# What is as short as this is timed again.
SHORT_SECONDS = 2


def fastest(run, files, few, workers):
    """Images a second with the best settings, and these: first the batch size without workers, then the number of workers.

    `run(files, batch, workers)` gives seconds and rows. The first `few` files are used, or with workers two batches.
    """
    def rate(batch, workers):
        chosen, tries = files[:max(few, batch * min(2, 1 + workers))], []
        while sum(tries) < SHORT_SECONDS:
            tries.append(run(chosen, batch, workers)[0])
        return len(chosen) / min(tries), {"batch": batch, "workers": workers}

    alone = [rate(size, 0) for size in BATCHES]
    best = max(alone, key=speed)
    small = next(each for each in alone if speed(each) >= NEARLY * speed(best))
    sizes = {found[1]["batch"] for found in (small, best)}
    return max([best, *(rate(size, each) for size in sorted(sizes) for each in workers if each)], key=speed)


def fastest_of_ours(rate):
    """The batch size of nightcap: a larger one if `rate(batch)`, images a second, is better by so much as it asks for itself."""
    best, *larger = ((size, max(rate(size) for _ in range(2))) for size in BATCHES_OF_OURS)
    for found in larger:
        best = found if best[1] <= BETTER * found[1] else best
    return best[0]


def fewest_tokens(model):
    """Of the captions of the model in the folder `model`."""
    return 6 if model.name.endswith("-ends") else TOKENS


def speed(found):
    return found[0]
