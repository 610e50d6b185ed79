"""The parts of a model that the compiled kernels run.

In a decode step of a small model torch and Python spend more on calling forty small operations a
layer than on computing them. Here a module's forward is replaced by one that does the same in a few
calls: for modules of the usual shape (RMSNorm; projections q, k, v, o with rotary positions, with
or without norms of queries and keys; softmax routers; layers that add attention, then experts), and
only after it has given the module's own output on random input. All else stays as it is. Models
are for inference from then on.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from runtime.elastic import ExpertDial
from runtime.fusion.attention import FusedAttention
from runtime.fusion.layer import FusedLayer
from runtime.fusion.model import FusedModel
from runtime.fusion.modules import FusedNorm, FusedOutput, FusedRotary, FusedRouter
from runtime.fusion.steps import Steps
from runtime.fusion.unusual import Unusual
from runtime.native.library import can_run

WHOLE = ""  # the name of the whole model among its modules


def fuse(model: nn.Module) -> list[str]:
    """Replace the modules that can be replaced; their names."""
    parameter = next(model.parameters())
    if parameter.device.type != "cpu" or not can_run(parameter.dtype):
        return []
    steps, fused = Steps(), []
    makers: list[Callable[[nn.Module], Any]] = [
        FusedNorm,
        lambda m: FusedRotary(m, parameter.dtype),
        FusedRouter,
        lambda m: FusedAttention(m, steps),
    ]
    if type(model.get_output_embeddings()) is nn.Linear:
        makers.append(lambda m: FusedOutput(m, model.get_output_embeddings()))
    for name, module in model.named_modules():
        for make in makers:
            try:
                module.forward = make(module)
            except Unusual:
                continue
            fused.append(name)
            break
    return fused


def fuse_layers(dial: ExpertDial) -> list[str]:
    """Of a fused model with its dial installed, the layers that run as one; their names.

    If that is all of them, the whole model as well (`WHOLE`).
    """
    steps, fused = Steps(), []
    if getattr(dial.model.config, "output_router_logits", False):
        return []  # they are taken from the router as it runs
    for moe in dial.layers:
        name, _, _block = moe.name.rpartition(".")
        layer = dial.model.get_submodule(name)
        try:
            layer.forward = FusedLayer(layer, moe, steps)
        except Unusual:
            continue
        fused.append(name)
    try:
        dial.model.forward = FusedModel(dial.model)
        fused.append(WHOLE)
    except Unusual:
        pass
    return fused
