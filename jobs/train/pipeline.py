"""Run a model directory with ONNX Runtime: greedy and beam search as transformers' `generate` defines them.

In:  pixels `[batch, 3, size, size]` f32 and side texts. Out: captions, memory, embeddings.
This is the reference in Python; it keeps no state between calls.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from data import tokens

NEVER = -1e9


def _present(name: str) -> str:
    """The output that is the next value of this input."""
    if name.startswith("past_key_values."):
        return name.replace("past_key_values", "present")
    return name.replace("past_", "present_")


class Pipeline:
    """The four graphs and the configuration of one model directory."""

    def __init__(self, directory: str | Path, threads: int = 2):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        directory = Path(directory)
        self.vision, self.text, self.fusion, self.decoder = (
            onnxruntime.InferenceSession(directory / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
            for name in ("vision_model", "text_model", "fusion", "decoder_with_past_model"))
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.config = json.loads((directory / "config.json").read_text())
        self.settings = json.loads((directory / "generation_config.json").read_text())
        self.size = json.loads((directory / "preprocessor_config.json").read_text())["size"]["height"]
        # a name in a shape is a size that is not fixed
        past = [i for i in self.decoder.get_inputs() if i.name.startswith("past_")]
        self.past = {i.name: [n if isinstance(n, int) else 0 for n in i.shape[1:]] for i in past}
        self.one_token_steps = self.decoder.get_inputs()[0].shape[1] == 1

    def tokens(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask `[batch, text]` i64; an empty text is a row of zeros."""
        ids = tokens.encode(self.tokenizer, texts, self.config["text_max_length"])
        ids[[not text for text in texts]] = 0
        return ids, (ids > 0).astype(np.int64)

    def memory(self, pixels: np.ndarray, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The decoder's memory, image embeddings and fused embeddings of images with side texts ("" for none)."""
        ids, mask = self.tokens(texts)
        tokens, images = self.vision.run(["last_hidden_state", "image_embeds"], {"pixel_values": pixels})
        states = self.text.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})[0]
        memory, fused = self.fusion.run(
            ["encoder_hidden_states", "fused_embeds"],
            {"image_hidden_states": tokens, "text_hidden_states": states, "text_attention_mask": mask})
        return memory, images, fused

    def embed(self, texts: list[str], batch: int = 100) -> np.ndarray:
        """Text embeddings `[texts, width]`."""
        parts: list[np.ndarray] = []
        for start in range(0, len(texts), batch):
            ids, mask = self.tokens(texts[start : start + batch])
            parts += self.text.run(["text_embeds"], {"input_ids": ids, "attention_mask": mask})
        return np.concatenate(parts)

    def step(self, ids: np.ndarray, memory: np.ndarray, past: list[np.ndarray] | None) -> tuple[np.ndarray, list[np.ndarray]]:
        """Logits `[rows, sequence, vocab]` and the next past; `past` None is an empty one."""
        if past is None:
            past = [np.zeros((len(ids), *shape), np.float32) for shape in self.past.values()]
        if self.one_token_steps and ids.shape[1] > 1:
            logits, past = self.step(ids[:, :1], memory, past)
            more, past = self.step(ids[:, 1:], memory, past)
            return np.concatenate([logits, more], 1), past
        names = ["logits", *(_present(name) for name in self.past)]
        feed = {"input_ids": ids, "encoder_hidden_states": memory, **dict(zip(self.past, past))}
        logits, *present = self.decoder.run(names, feed)
        return logits, present

    def generate(self, memory: np.ndarray, beams: int) -> list[str]:
        """Captions of each row of `memory`."""
        ids = self._greedy(memory) if beams == 1 else self._beam(memory, beams)
        return self.tokenizer.decode_batch(ids, skip_special_tokens=True)

    def _greedy(self, memory: np.ndarray) -> list[list[int]]:
        ids, past = np.full((len(memory), 1), self.settings["decoder_start_token_id"], np.int64), None
        rows = np.zeros((len(memory), 0), np.int64)
        ended = np.zeros(len(memory), bool)
        while rows.shape[1] < self.settings["max_new_tokens"] and not ended.all():
            logits, past = self.step(ids, memory, past)
            best = logits[:, -1].argmax(-1)
            best[ended] = self.settings["pad_token_id"]
            ended |= best == self.settings["eos_token_id"]
            ids = best[:, None]
            rows = np.concatenate([rows, ids], 1)
        return rows.tolist()

    def _beam(self, memory: np.ndarray, beams: int) -> list[list[int]]:
        """transformers' `_beam_search` with length_penalty 1.0 and early_stopping False, all rows in step."""
        batch, eos, longest = len(memory), self.settings["eos_token_id"], self.settings["max_new_tokens"]
        memory, past = memory.repeat(beams, 0), None
        ids = np.full((batch * beams, 1), self.settings["decoder_start_token_id"], np.int64)
        running, scores = np.zeros((batch, beams, 0), np.int64), np.full((batch, beams), NEVER)
        scores[:, 0] = 0
        done: list[list[tuple[float, np.ndarray | None]]] = [[(NEVER, None)] * beams for _ in range(batch)]
        hopeful = np.ones(batch, bool)
        for length in range(1, longest + 1):
            logits, past = self.step(ids, memory, past)
            logits = logits[:, -1].astype(np.float64)
            logits -= logits.max(-1, keepdims=True)
            logs = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).reshape(batch, beams, -1)
            vocab = logs.shape[-1]
            flat = (logs + scores[:, :, None]).reshape(batch, -1)
            top = np.argsort(-flat, axis=1, kind="stable")[:, : 2 * beams]
            values, parents, words = np.take_along_axis(flat, top, 1), top // vocab, top % vocab
            ends = (words == eos) | (length == longest)
            grown = np.concatenate([np.take_along_axis(running, parents[:, :, None], 1), words[:, :, None]], 2)
            for row in np.flatnonzero(hopeful):
                # Only the best `beams` candidates may finish; the others are there to go on with.
                new = [(values[row, k] / length, grown[row, k]) for k in range(beams) if ends[row, k]]
                done[row] = sorted(done[row] + new, key=lambda item: -item[0])[:beams]
            kept = np.argsort(-(values + ends * NEVER), axis=1, kind="stable")[:, :beams]
            scores = np.take_along_axis(values + ends * NEVER, kept, 1)
            running = np.take_along_axis(grown, kept[:, :, None], 1)
            worst = np.array([beam[-1][0] for beam in done])
            hopeful &= (scores[:, 0] / length > worst) | (worst == NEVER)
            if not hopeful.any():
                break
            rows = (np.take_along_axis(parents, kept, 1) + np.arange(batch)[:, None] * beams).reshape(-1)
            past, ids = [part[rows] for part in past], running[:, :, -1].reshape(-1, 1)
        return [best.tolist() for best in (beam[0][1] for beam in done) if best is not None]
