"""A Paddle layer as a torch module: it runs in Paddle, and gradients with respect to its inputs are Paddle's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.dlpack import from_dlpack

from .errors import InputError, MissingExtra, OptionError, OutputError, need
from .inputs import Tensors
from .model import Foreign

__all__ = ["Bridge", "as_torch"]

# Paddle's autograd is not thread-safe: two threads in it at once end the process. The lock is reentrant, for a bridge in a layer.
_LOCK = threading.RLock()
# What stands where a tensor was, in the arguments of a call.
_HERE = object()
UNDIFFERENTIABLE = (
    "Paddle itself cannot differentiate this layer with respect to these inputs (in 3.3.1, its LSTM, GRU and SimpleRNN); use a method "
    "that needs no gradient, such as feature_ablation or shapley"
)


def as_torch(layer: Any) -> Bridge:
    """The layer as a torch module, with exact gradients with respect to its inputs.

    It takes torch tensors (also in lists, dictionaries and keywords) and returns them as the layer returns its own: a
    tensor, or tuples, lists and dictionaries of tensors. Inputs are copied once, so that neither side works in the other's
    memory. The layer is left as it is; its parameters gather no gradients. One call runs at a time, whatever the threads.

    Every method that needs scores or the gradients of inputs works on it. What happens inside cannot be seen from torch:
    methods with rules for operations (DeepLIFT, LRP, guided backpropagation) and those that look at a layer are refused.

    Args:
        layer: a `paddle.nn.Layer`.

    Raises:
        MissingExtra: Paddle is not installed, or is older than 3.0.
        InputError: no Paddle layer.

    >>> import paddle, pellucid, torch  # doctest: +SKIP
    >>> layer = paddle.nn.Sequential(paddle.nn.Linear(4, 8), paddle.nn.ReLU(), paddle.nn.Linear(8, 3))  # doctest: +SKIP
    >>> pellucid.explain(as_torch(layer), torch.randn(2, 4), target=1).attribution.shape  # doctest: +SKIP
    torch.Size([2, 4])
    """
    paddle = _paddle()
    if paddle.__version__.startswith(("1.", "2.")):
        raise MissingExtra(f"paddle is version {paddle.__version__}; the bridge needs 3.0 or later: pip install 'pellucid[paddle]'")
    if isinstance(layer, paddle.nn.Layer):
        return Bridge(layer)
    if isinstance(layer, type):
        raise InputError(f"layer is the class {layer.__name__}; give an object: as_torch({layer.__name__}(...))")
    if isinstance(layer, nn.Module):
        raise InputError(f"layer is {type(layer).__name__}, which is a torch module already; give it to explain as it is")
    raise InputError(f"layer is {type(layer).__name__}; give a paddle.nn.Layer (of a paddle.Model its network)")


def _paddle() -> Any:
    return need("paddle", "paddle")


class Bridge(Foreign):
    """A Paddle layer that is called, differentiated and switched between modes as a torch module.

    Its buffers are the layer's parameters and buffers, in the layer's own memory: they are hashed as its weights, and put
    back after an explanation in train mode. Gradients cannot be differentiated again.
    """

    framework = "Paddle"

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer returns, as torch tensors.

        Raises:
            InputError: a tensor where Paddle cannot reach it.
            OutputError: the layer returns something else than tensors.
            OptionError: in the backward pass, if it is to be differentiated again.
        """
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        call = _Call(self.layer, [_HERE if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return call.filled(_Run.apply(call, *tensors))  # type: ignore[no-untyped-call]
        return call.filled(tuple(map(_to_torch, call.run(tensors, (False,) * len(tensors)).returned)))

    @property
    def training(self) -> bool:
        """Whether the layer, or any inside it, is in train mode."""
        return any(layer.training for layer in self.layer.sublayers(include_self=True))

    @training.setter
    def training(self, mode: bool) -> None:
        if "layer" in self.__dict__:  # `Module.__init__` sets a mode before there is a layer
            self.layer.train() if mode else self.layer.eval()

    @property
    def _buffers(self) -> dict[str, Tensor | None]:
        """Parameters and buffers where they are now: Paddle may give one another place."""
        named = (*self.layer.named_parameters(), *self.layer.named_buffers()) if "layer" in self.__dict__ else ()
        return {name: _to_torch(tensor) for name, tensor in named if tensor is not None and tensor._is_initialized()}

    @_buffers.setter
    def _buffers(self, buffers: dict[str, Tensor | None]) -> None:
        """Nothing: they are the layer's."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for tensor in self._buffers.values():
            if tensor is not None and fn(tensor).data_ptr() != tensor.data_ptr():
                raise OptionError("a bridge cannot move or convert its Paddle layer; do that in Paddle: bridge.layer.to(...)")
        return self

    def in_train_mode(self) -> list[str]:
        """The layers inside that behave otherwise in training, and are in that mode."""
        names = self.layer.named_sublayers(include_self=True)
        return [name or type(layer).__name__ for name, layer in names if layer.training and _acts(_paddle().nn, layer)]

    def modes(self) -> Any:
        """The mode of every layer inside."""
        return [(layer, layer.training) for layer in self.layer.sublayers(include_self=True)]

    def restore(self, modes: Any) -> None:
        """Back to what `modes` said."""
        for layer, training in modes:
            layer.training = training

    def extra_repr(self) -> str:
        """The layer, in Paddle's words."""
        return repr(self.layer)


def _acts(nn: Any, layer: Any) -> bool:
    """Whether a layer in train mode is random, or depends on the batch."""
    if isinstance(layer, nn.Dropout | nn.Dropout2D | nn.Dropout3D | nn.AlphaDropout | nn.FeatureAlphaDropout):
        return bool(layer.p > 0)
    if isinstance(layer, nn.LSTM | nn.GRU | nn.SimpleRNN):
        return bool(layer.dropout > 0 and layer.num_layers > 1)
    if isinstance(layer, nn.BatchNorm | nn.BatchNorm1D | nn.BatchNorm2D | nn.BatchNorm3D | nn.SyncBatchNorm):
        return not layer._use_global_stats
    return isinstance(layer, nn.RReLU | nn.MultiHeadAttention) and getattr(layer, "dropout", 1) > 0


@dataclass(frozen=True, eq=False)
class _Passed:
    """Paddle's tensors of one call: what went in, what came out, and the bytes that stay for the gradient."""

    given: tuple[Any, ...]
    returned: tuple[Any, ...]
    kept: int


@dataclass(eq=False)
class _Call:
    """One call of a layer: its arguments and then its results, without the tensors among them."""

    layer: Any
    leaves: list[Any]
    spec: Any
    results: list[Any] = field(default_factory=list)

    def run(self, tensors: Tensors, active: Sequence[bool]) -> _Passed:
        """Run the layer, with a graph from the tensors that are active, if any is."""
        paddle = _paddle()
        with _LOCK, paddle.set_grad_enabled(any(active)):
            given = tuple(map(_to_paddle, tensors))
            for tensor, is_active in zip(given, active, strict=True):
                tensor.stop_gradient = not is_active
            before = _allocated(paddle)
            # Copies in the graph: the layer may work in place on what it gets, and torch on what comes out.
            args, kwargs = self._arguments(iter([t.clone() for t in given]))
            with _right_layer_norm(paddle):
                self.results, self.spec = pytree.tree_flatten(self.layer(*args, **kwargs))
            returned = tuple(r.clone() for r in self.results if isinstance(r, paddle.Tensor))
            self._forget(paddle, returned)
            _settle(paddle)
            return _Passed(given, returned, max(0, _allocated(paddle) - before))

    def _arguments(self, tensors: Iterator[Any]) -> Any:
        return pytree.tree_unflatten([next(tensors) if leaf is _HERE else leaf for leaf in self.leaves], self.spec)

    def _forget(self, paddle: Any, returned: tuple[Any, ...]) -> None:
        """Keep of the results what is no tensor."""
        self.results = [_HERE if isinstance(r, paddle.Tensor) else r for r in self.results]
        odd = next((r for r in self.results if r is not _HERE and not isinstance(r, int | float | str | None)), None)
        if odd is not None or not returned:
            found = f"an object of {type(odd).__name__}" if odd is not None else "no tensor"
            raise OutputError(
                f"the Paddle layer {type(self.layer).__name__} returned {found}; a bridge passes on tensors and tuples, lists and "
                "dictionaries of them: wrap the layer in one whose forward takes the tensors out"
            )

    def filled(self, tensors: Tensors) -> Any:
        """The results with torch's tensors in their places."""
        each = iter(tensors)
        return pytree.tree_unflatten([next(each) if r is _HERE else r for r in self.results], self.spec)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> Tensors:
        passed = call.run(tensors, ctx.needs_input_grad[1:])
        found = tuple(map(_to_torch, passed.returned))
        ctx.passed = passed
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(t for t, p in zip(found, passed.returned, strict=True) if p.stop_gradient))
        # No memory, but its size: whoever counts what autograd keeps (`pellucid.memory`) counts what Paddle keeps.
        ctx.save_for_backward(torch.empty(passed.kept, dtype=torch.uint8, device="meta"))
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise OptionError(
                "the gradient of a Paddle layer cannot be differentiated again; use a method that takes one gradient, without create_graph"
            )
        needed = ctx.needs_input_grad[1:]
        found = iter(_pulled(ctx.passed, needed, gradients))
        return None, *(next(found) if need else None for need in needed)


def _pulled(passed: _Passed, needed: Sequence[bool], gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """What comes back to the inputs that need a gradient."""
    paddle = _paddle()
    wanted = [given for given, need in zip(passed.given, needed, strict=True) if need]
    with _LOCK:
        pairs = [(out, _to_paddle(g)) for out, g in zip(passed.returned, gradients, strict=True) if g is not None]
        if not pairs:
            return [None] * len(wanted)
        outputs, weights = map(list, zip(*pairs, strict=True))
        try:
            found = paddle.grad(outputs, wanted, weights, retain_graph=True, allow_unused=True)
            _settle(paddle)
            return [None if g is None else _to_torch(g) for g in found]
        except Exception as error:
            error.add_note(UNDIFFERENTIABLE)
            raise


def _to_paddle(tensor: Tensor) -> Any:
    """A copy in Paddle's own memory.

    Memory of torch's that Paddle looks at (`paddle.from_dlpack`) is let go under a lock of Paddle's, in which torch lets go of
    the interpreter: with several threads both then wait for each other for ever. The other way round nothing is locked.
    """
    paddle = _paddle()
    if tensor.device.type != "cpu" and not (tensor.is_cuda and paddle.is_compiled_with_cuda()):
        devices = "CPU and GPU" if paddle.is_compiled_with_cuda() else "CPU"
        raise InputError(f"a tensor is on {tensor.device}, and this Paddle reaches {devices} only; move it: tensor.cpu()")
    found = paddle.empty(tensor.shape, str(tensor.dtype).removeprefix("torch."))
    if paddle.is_compiled_with_cuda():
        found = found.cuda(tensor.device.index) if tensor.is_cuda else found.cpu()
    _to_torch(found).copy_(tensor.detach())
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return found


def _to_torch(tensor: Any) -> Tensor:
    return from_dlpack(tensor.detach())


@contextmanager
def _right_layer_norm(paddle: Any) -> Iterator[None]:
    """While the block runs, layer normalisation multiplies by its weights in an operation of its own.

    Paddle's gradient of the whole (its CPU kernel in 3.3.1) is wrong by up to its own size where the weights are not all one.
    """
    own = paddle._C_ops.layer_norm

    def layer_norm(x: Any, weight: Any, bias: Any, epsilon: float, axis: int) -> Any:
        found, shape = own(x, None, None, epsilon, axis), x.shape[axis:]
        found = found if weight is None else found * weight.astype(x.dtype).reshape(shape)
        return found if bias is None else found + bias.astype(x.dtype).reshape(shape)

    paddle._C_ops.layer_norm = layer_norm
    try:
        yield
    finally:
        paddle._C_ops.layer_norm = own


def _settle(paddle: Any) -> None:
    """Wait for the GPU: the two libraries run on streams of their own."""
    if paddle.is_compiled_with_cuda():
        paddle.device.synchronize()


def _allocated(paddle: Any) -> int:
    """Bytes that Paddle holds now."""
    if paddle.is_compiled_with_cuda():
        return int(paddle.device.cuda.memory_allocated())
    return int(paddle.base.core.host_memory_stat_current_value("Allocated", 0))
