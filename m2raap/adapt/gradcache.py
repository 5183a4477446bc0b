"""Exact gradients of a large batch in the memory of a small one: gradient caching (Gao et al. 2021, arXiv 2101.06983).

A contrastive loss needs the features of the whole batch, but not their graphs. First pass: every chunk of clips is encoded
without a graph. The loss of all features gives the gradient of each. Second pass: every chunk is encoded again, with a
graph, and its part of that gradient goes back. The gradients are those of one big batch; the price is a second forward
pass. Shares of several processes are chunks too: their features are gathered between the passes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from m2raap.adapt.distributed import DistContext
from m2raap.adapt.gradient_sum import GradientSum
from m2raap.adapt.objective import Features, StepLoss
from m2raap.core import talk
from m2raap.core.errors import M2raapError

Encode = Callable[[int, int], Features]  # from the start and stop of a run of clips
Chunk = tuple[int, int]


class GradCache:
    """Puts the gradients of a step into `.grad` of `learning`. Where memory runs out it halves the chunks, not the batch.

    `learning` are the weights that `encode` reads, `of_loss` those that only the loss reads (temperature, bias). `micro`:
    clips per chunk, None for all at once; it never rises.
    """

    def __init__(
        self,
        learning: Iterable[nn.Parameter],
        of_loss: Iterable[nn.Parameter],
        dist_context: DistContext,
        micro: int | None,
    ) -> None:
        self.of_loss = list(of_loss)
        loss_ids = {id(p) for p in self.of_loss}
        self.learning = [p for p in learning if id(p) not in loss_ids]
        self.dist_context, self.micro = dist_context, micro
        self._sum, self._sum_of_loss = (GradientSum(weights, dist_context) for weights in (self.learning, self.of_loss))
        self._proven: int | None = None  # the chunks with which the last step fitted into memory

    def __call__(
        self,
        batch: int,
        encode: Encode,
        loss_of: Callable[[Features], StepLoss],
        scale: Callable[[Tensor], Tensor] | None = None,
    ) -> StepLoss:
        """The loss of `batch` clips, without a graph. `scale` multiplies the loss before the backward pass (in fp16).

        Raises M2raapError where GPU memory does not suffice for the loss, or for one clip.
        """
        scale = scale or (lambda loss: loss)
        share = self.dist_context.local_slice(batch)
        self._clear_gradients(self.of_loss)
        while True:
            self._clear_gradients(self.learning)
            chunk_features = self._first_pass(share, encode)
            if self.dist_context.world_size > 1 or len(chunk_features) > 1:
                break
            try:  # the only chunk is the whole batch, and its graph is kept: no second pass
                loss = loss_of(chunk_features[0])
                scale(loss.total).backward()
                return loss.detached()
            except torch.cuda.OutOfMemoryError:
                chunk_features = []
            loss = None  # it holds the graph of the whole batch
            self._clear_gradients(self.of_loss)
            self._halve(share)
        kept = list(chunk_features) if len(chunk_features) == 1 else []
        batch_features = self.dist_context.all_gather(_without_graph(Features.joined(chunk_features)), batch)
        del chunk_features
        leaves = batch_features.replace(
            {name: tensor.requires_grad_() for name, tensor in batch_features.vectors().items()}
        )
        try:
            loss = loss_of(leaves)
            scale(loss.total).backward()
        except torch.cuda.OutOfMemoryError:
            raise M2raapError(
                f"out of GPU memory in the loss of {batch} clips, where smaller chunks do not help: lower adapt.batch_size, or "
                "set adapt.loss.frame_caption to 0, or adapt.interaction to null and adapt.loss.interaction to 0"
            ) from None
        gradients = {name: leaf.grad for name, leaf in leaves.vectors().items() if leaf.grad is not None}
        self.dist_context.mean_tensors(gradients.values())
        del leaves, batch_features
        self._second_pass(share, encode, kept, gradients)
        self._sum.finish()
        self._sum_of_loss.finish()
        self.dist_context.mean_of_sums(self.of_loss)
        self._proven = self._chunk(share)
        return loss.detached()

    def _first_pass(self, share: Chunk, encode: Encode) -> list[Features]:
        while True:
            chunks = cut(share, self.micro)
            try:
                with torch.set_grad_enabled(len(chunks) == 1):
                    return [encode(*chunk) for chunk in chunks]
            except torch.cuda.OutOfMemoryError:
                pass  # the exception has to be released, and the tensors that it holds with it, before the chunks get smaller
            self._halve(share)

    def _second_pass(self, share: Chunk, encode: Encode, kept: list[Features], gradients: dict[str, Tensor]) -> None:
        """`kept`: the features of the only chunk, with their graph; else empty. It is emptied where memory runs out."""
        features: Features | None = None
        while True:
            chunks = cut(share, self.micro)
            try:
                for chunk in chunks:
                    features = kept[0] if kept else encode(*chunk)
                    # Sums that have been sent cannot be taken back: only where the step before fitted into memory.
                    if chunk == chunks[-1] and self._proven == self._chunk(share):
                        self._sum.arm()
                    _backward(features, chunk, gradients)
                return
            except torch.cuda.OutOfMemoryError:
                if self._sum.is_under_way:
                    raise M2raapError(
                        "out of GPU memory in the middle of a step that fitted before: another program uses this GPU; the same "
                        "command resumes, or lower adapt.micro_batch"
                    ) from None
                self._sum.disarm()  # else the first part of the repeated pass would send its gradients alone
                kept.clear()
            features = None  # the graph of the failed pass, which the repeated one needs the memory of
            self._clear_gradients(self.learning)
            self._halve(share)

    def _chunk(self, share: Chunk) -> int:
        """Number of clips of the largest chunk."""
        return min(self.micro or share[1] - share[0], share[1] - share[0])

    def _halve(self, share: Chunk) -> None:
        size = self._chunk(share)
        if size == 1:
            raise M2raapError(
                "out of GPU memory with one clip at a time: lower adapt.num_frames or adapt.train_vision_layers, or set "
                "adapt.precision to bf16"
            )
        self.micro = (size + 1) // 2
        gc.collect()
        torch.cuda.empty_cache()
        talk.log(
            f"adapt: out of GPU memory; from now on {self.micro} clips are encoded at a time, and the batch stays as large"
        )

    @staticmethod
    def _clear_gradients(weights: list[nn.Parameter]) -> None:
        for p in weights:
            p.grad = None


def cut(share: Chunk, size: int | None) -> list[Chunk]:
    """The share cut into [(start, stop), ...] of at most `size` clips each; None: one chunk."""
    start, stop = share
    size = size or stop - start
    return [(at, min(at + size, stop)) for at in range(start, stop, size)]


def _without_graph(features: Features) -> Features:
    return features.replace({name: tensor.detach() for name, tensor in features.vectors().items()})


def _backward(features: Features, chunk: Chunk, gradients: dict[str, Tensor]) -> None:
    """Backward pass of a chunk, from its rows of the gradients of the batch's features."""
    outputs = [(tensor, gradients[name]) for name, tensor in features.vectors().items() if name in gradients]
    outputs = [(tensor, gradient[slice(*chunk)]) for tensor, gradient in outputs if tensor.requires_grad]
    if outputs:
        torch.autograd.backward([tensor for tensor, _ in outputs], [gradient for _, gradient in outputs])
