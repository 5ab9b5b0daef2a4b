"""Processor seconds of `Space.trace`, proof included, beside one `torch.export` of the same network.

    python benchmarks/tracing.py resnet18 resnet50 detr segformer unet2d yolo11n yolo26n rtdetr-l cait_xxs24

Networks that others wrote, with random weights; each needs its package (torchvision, transformers, diffusers,
ultralytics, timm). Both are measured on a network that has run and was exported once, so neither pays for first calls.
"""

import argparse
import time

import torch
from zoo import import_torchvision

from secateur.spaces import Space
from secateur.spaces.tracing import shortcuts


def resnet18():
    from torchvision.models import resnet18 as make

    return make(), torch.rand(2, 3, 64, 64)


def resnet50():
    from torchvision.models import resnet50 as make

    return make(), torch.rand(2, 3, 224, 224)


def cait_xxs24():
    from timm import create_model

    return create_model("cait_xxs24_224"), torch.rand(2, 3, 224, 224)


def detr():
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )
    sizes = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    widths = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 10}
    plain = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    config = DetrConfig(backbone_config=backbone, **plain, **sizes, **widths)
    inputs = {"pixel_values": torch.rand(2, 3, 64, 64), "pixel_mask": torch.ones(2, 64, 64, dtype=torch.long)}
    return DetrForObjectDetection(config), inputs


def segformer():
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(num_labels=5, hidden_sizes=[16, 32, 40, 64], decoder_hidden_size=64)
    return SegformerForSemanticSegmentation(config), {"pixel_values": torch.rand(2, 3, 64, 64)}


def unet2d():
    from diffusers import UNet2DModel

    kinds = {
        f"{way}_block_types": (f"{Way}Block2D", f"Attn{Way}Block2D") for way, Way in (("down", "Down"), ("up", "Up"))
    }
    model = UNet2DModel(sample_size=32, block_out_channels=(32, 64), norm_num_groups=8, **kinds)
    return model, {"sample": torch.rand(2, 3, 32, 32), "timestep": torch.tensor([10, 500])}


def yolo(name, side=160):
    from ultralytics import RTDETR, YOLO

    return (RTDETR if name.startswith("rtdetr") else YOLO)(f"{name}.yaml").model, torch.rand(2, 3, side, side)


NETWORKS = {
    **{made.__name__: made for made in (resnet18, resnet50, detr, segformer, unet2d, cait_xxs24)},
    **{name: lambda name=name: yolo(name) for name in ("yolo11n", "yolo26n")},
    "rtdetr-l": lambda: yolo("rtdetr-l", 320),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("networks", nargs="+", choices=NETWORKS)
    parser.add_argument(
        "--repeats", type=int, default=1, help="of each, by turns; the least is told, as of a quiet machine"
    )
    print("| network | export, s | trace, s | trace / export | groups |\n|---|---:|---:|---:|---:|")
    arguments = parser.parse_args()
    import_torchvision()
    for name in arguments.networks:
        model, inputs = NETWORKS[name]()
        model.eval()
        args, kwargs = ((), inputs) if isinstance(inputs, dict) else ((inputs,), {})
        with torch.no_grad():
            model(*args, **kwargs)
            torch.export.export(model, args, kwargs, strict=False)
        exports, traces = [], []
        for _ in range(arguments.repeats):
            with torch.no_grad():
                exports.append(seconds(lambda: torch.export.export(model, args, kwargs, strict=False))[0])  # noqa: B023
            shortcuts._known.clear()  # each finds anew what operators give
            trace, space = seconds(lambda: Space.trace(model, inputs))  # noqa: B023
            traces.append(trace)
        export, trace = min(exports), min(traces)
        row = (name, f"{export:.1f}", f"{trace:.1f}", f"{trace / export:.1f}", str(len(space.groups)))
        print("|", " | ".join(row), "|", flush=True)


def seconds(call):
    """Of the processor, and what the call gives."""
    began = time.process_time()
    result = call()
    return time.process_time() - began, result


if __name__ == "__main__":
    main()
