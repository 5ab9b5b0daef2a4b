"""The networks of the coverage sweep: torchvision's and timm's convolutional networks, MONAI's in 3D; random weights.

Each is an `Entry`: how to make it, and what it takes. Nothing here is downloaded.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Entry:
    """A network of the sweep.

    Attributes:
        library: `torchvision`, `monai` or `timm`; `hybrid` for networks that mix convolutions with attention.
        name: as its library names it; with the arguments that matter.
        make: gives the network.
        shape: channels and spatial sides of the input that it is made for.
        sides: smaller ones to try for the runs with arithmetic, ascending.
        inputs: gives the inputs of a batch at a side, where they are not one tensor of noise.
    """

    library: str
    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    sides: tuple[tuple[int, ...], ...]
    inputs: Callable[[int, tuple[int, ...], torch.Generator], Any] | None = None

    def example(self, batch, side=None, seed=0, dtype=torch.float32):
        """`(batch, channels, *side)` seeded uniform noise, or what `inputs` gives, with numbers of `dtype`."""
        generator = torch.Generator().manual_seed(seed)
        if self.inputs is None:
            shape = (batch, self.shape[0], *(self.shape[1:] if side is None else side))
            return (torch.rand(shape, generator=generator) * 2 - 1).to(dtype)
        made = self.inputs(batch, self.shape[1:] if side is None else side, generator)
        return pytree.tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, made)


def import_torchvision():
    """torchvision; two operators that only detection needs are declared where its binary cannot be loaded."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    import_torchvision.library = torch.library.Library("torchvision", "FRAGMENT")  # the operators live as long as it
    for name in ("nms", "qnms"):
        import_torchvision.library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")


def entries(library: str) -> list[Entry]:
    """The networks of one library."""
    if library in ("wild", "transformers"):
        return importlib.import_module({"wild": "wild", "transformers": "attention"}[library]).entries()
    return {"torchvision": torchvision_entries, "monai": monai_entries, "timm": timm_entries, "hybrid": hybrid_entries}[
        library
    ]()


def smaller(side: int, axes: int = 2) -> tuple[tuple[int, ...], ...]:
    return tuple((one,) * axes for one in (64, 96, 128, 160, 192, 224, 256) if one < side)


# --- torchvision ------------------------------------------------------------------------------------------------------

TRANSFORMERS = ("vit_", "swin_", "swin3d_", "mvit_")
VIDEO_FRAMES = 16


def torchvision_entries() -> list[Entry]:
    models = import_torchvision().models
    found = []
    for module in (models, models.segmentation, models.video):
        for name in models.list_models(module=module):
            if not name.startswith(TRANSFORMERS):
                found.append(_torchvision(models, module, name))
    return found


def _torchvision(models, module, name):
    arguments = {"weights": None}
    if module is models.segmentation:
        arguments["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        arguments["init_weights"] = False  # its own initialisation takes minutes and changes nothing here
    if module is models.video:
        side = 224 if name == "s3d" else 112
        sides = tuple((VIDEO_FRAMES, one, one) for one in (64, 112, 128, 192) if one < side)
        shape = (3, VIDEO_FRAMES, side, side)
    else:
        side = 299 if name == "inception_v3" else 224
        shape, sides = (3, side, side), smaller(side)
    return Entry("torchvision", name, lambda: models.get_model(name, **arguments), shape, sides)


def torchvision_left_out() -> list[str]:
    models = import_torchvision().models
    names = [name for m in (models, models.segmentation, models.video) for name in models.list_models(module=m)]
    return [name for name in names if name.startswith(TRANSFORMERS)]


# --- MONAI ------------------------------------------------------------------------------------------------------------

MONAI_LEFT_OUT = {
    "ViT, ViTAutoEnc, MaskedAutoEncoderViT, NaViT, UNETR, SwinUNETR, HyenaNDUNETR": "transformers",
    "VoxelMorph, SPADENet, DiffusionModelUNet, SPADEDiffusionModelUNet, ControlNet, VISTA3D, MultiModal, Transchex": (
        "take several inputs"
    ),
    "AutoencoderKL, SPADEAutoencoderKL": "add noise to what they return",
    "HoVerNet, Quicknat, MILModel, TorchVisionFCModel": "2D only",
    "FullyConnectedNet, VarFullyConnectedNet": "without convolutions",
    "DiNTS with TopologySearch": "a supernet",
    "DiNTS with its codes in PyTorch": "its forward branches on the values of tensors, which `torch.export` refuses",
}


def monai_entries() -> list[Entry]:
    import_torchvision()
    nets = importlib.import_module("monai.networks.nets")
    found = []

    def add(name, make, side=64, channels=1, fixed=False):
        sides = () if fixed else tuple((one,) * 3 for one in (32, 48, 64, 96) if one < side)
        found.append(Entry("monai", name, make, (channels, side, side, side), sides))

    levels = {"channels": (16, 32, 64, 128), "strides": (2, 2, 2)}
    four = {"channels": (8, 16, 32, 64), "strides": (2, 2, 2, 2)}
    plain = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    add("UNet", lambda: nets.UNet(**plain, **levels))
    add("UNet(num_res_units=2)", lambda: nets.UNet(**plain, **levels, num_res_units=2))
    add("UNet(norm='batch')", lambda: nets.UNet(**plain, **levels, num_res_units=1, norm="batch"))
    add("BasicUNet", lambda: nets.BasicUNet(**plain))
    add("BasicUNet(upsample='nontrainable')", lambda: nets.BasicUNet(**plain, upsample="nontrainable"))
    add("BasicUNetPlusPlus", lambda: nets.BasicUNetPlusPlus(**plain))
    add("AttentionUnet", lambda: nets.AttentionUnet(**plain, **levels))
    add("SegResNet", lambda: nets.SegResNet(**plain, init_filters=16))
    add("SegResNet(upsample_mode='deconv')", lambda: nets.SegResNet(**plain, init_filters=16, upsample_mode="deconv"))
    add("SegResNetVAE", lambda: nets.SegResNetVAE((64,) * 3, in_channels=1, out_channels=2), fixed=True)
    add("SegResNetDS", lambda: nets.SegResNetDS(**plain, init_filters=16))
    add("SegResNetDS(dsdepth=2)", lambda: nets.SegResNetDS(**plain, init_filters=16, dsdepth=2))
    add("SegResNetDS2", lambda: nets.SegResNetDS2(**plain, init_filters=16))
    kernels = {"kernel_size": [3] * 4, "strides": [1, 2, 2, 2], "upsample_kernel_size": [2] * 3}
    add("DynUNet", lambda: nets.DynUNet(**plain, **kernels))
    add("DynUNet(res_block=True)", lambda: nets.DynUNet(**plain, **kernels, res_block=True))
    add("DynUNet(deep_supervision=True)", lambda: nets.DynUNet(**plain, **kernels, deep_supervision=True))
    add("VNet", lambda: nets.VNet())
    for depth in (121, 169, 201, 264):
        add(f"DenseNet{depth}", lambda depth=depth: getattr(nets, f"DenseNet{depth}")(**plain))
    for depth in (10, 18, 34, 50, 101, 152, 200):
        make = getattr(nets, f"resnet{depth}")
        add(f"resnet{depth}", lambda make=make: make(spatial_dims=3, n_input_channels=1, num_classes=2))
    add(
        "resnet18(shortcut_type='A')",
        lambda: nets.resnet18(spatial_dims=3, n_input_channels=1, num_classes=2, shortcut_type="A"),
    )
    add("ResNetFeatures(resnet18)", lambda: nets.ResNetFeatures("resnet18", pretrained=False))
    for number in (0, 3, 7):
        name = f"efficientnet-b{number}"
        add(
            f"EfficientNetBN({name})",
            lambda name=name: nets.EfficientNetBN(name, pretrained=False, spatial_dims=3, in_channels=1, num_classes=2),
        )
    add(
        "EfficientNetBNFeatures(efficientnet-b0)",
        lambda: nets.EfficientNetBNFeatures("efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=1),
    )
    for name in ("SEResNet50", "SEResNet101", "SEResNet152", "SEResNext50", "SEResNext101", "SENet154"):
        add(name, lambda name=name: getattr(nets, name)(spatial_dims=3, in_channels=1, num_classes=2))
    add("HighResNet", lambda: nets.HighResNet())
    add("RegUNet", lambda: nets.RegUNet(3, 2, 16, 3), channels=2)
    add("RegUNet(concat_skip=True)", lambda: nets.RegUNet(3, 2, 16, 3, concat_skip=True), channels=2)
    add("LocalNet", lambda: nets.LocalNet(3, 2, 16, (0, 1, 2, 3)), channels=2)
    add("GlobalNet", lambda: nets.GlobalNet([64] * 3, 3, 2, 16, 3), channels=2, fixed=True)
    for backbone in ("efficientnet-b0", "resnet18", "resnet50"):
        add(
            f"FlexibleUNet({backbone})",
            lambda backbone=backbone: nets.FlexibleUNet(1, 2, backbone, spatial_dims=3),
        )
    add("AHNet(psp_block_num=3)", lambda: nets.AHNet(psp_block_num=3), side=128)
    add("DAF3D", lambda: nets.DAF3D(1, 2), side=96)
    for size in ("S", "L"):
        add(f"MedNeXt{size}", lambda size=size: getattr(nets, f"MedNeXt{size}")(**plain))
    add("DiNTS(TopologyInstance), codes in NumPy", lambda: _dints(nets))
    add("VoxelMorphUNet", lambda: nets.VoxelMorphUNet(3, 2, 3, (16, 32, 32, 32, 32, 32), (16, 16)), channels=2)
    add("AutoEncoder", lambda: nets.AutoEncoder(**plain, **four, num_res_units=1))
    add("AutoEncoder(inter_channels)", lambda: nets.AutoEncoder(**plain, **four, inter_channels=[64, 64]))
    add(
        "VarAutoEncoder",
        lambda: nets.VarAutoEncoder(3, (1, 64, 64, 64), 1, 16, use_mean_at_inference=True, **four),
        fixed=True,
    )
    add("VQVAE", lambda: nets.VQVAE(3, 1, 1))
    add("Classifier", lambda: nets.Classifier((1, 64, 64, 64), 5, **four), fixed=True)
    add("Discriminator", lambda: nets.Discriminator((1, 64, 64, 64), **four), fixed=True)
    add("Critic", lambda: nets.Critic((1, 64, 64, 64), **four), fixed=True)
    add("Regressor", lambda: nets.Regressor((1, 64, 64, 64), (3,), **four), fixed=True)
    found.append(
        Entry("monai", "Generator", lambda: nets.Generator((24,), (32, 8, 8, 8), (32, 16, 1), (2, 2, 2)), (24,), ())
    )
    add("PatchDiscriminator, last output", lambda: Picked(nets.PatchDiscriminator(3, 16, 1), lambda y: y[-1]))
    add(
        "MultiScalePatchDiscriminator, last outputs",
        lambda: Picked(nets.MultiScalePatchDiscriminator(2, 2, 3, 16, 1, minimum_size_im=64), lambda y: y[0]),
    )
    return found


class Picked(nn.Module):
    """A network that returns the output of every layer, taken at its last ones."""

    def __init__(self, network, pick):
        super().__init__()
        self.network, self.pick = network, pick

    def forward(self, x):
        return self.pick(self.network(x))


def _dints(nets):
    space = nets.TopologyInstance(channel_mul=0.5, num_blocks=6, num_depths=3)
    network = nets.DiNTS(space, in_channels=1, num_classes=2)
    network.node_a, space.arch_code_a = network.node_a.numpy(), space.arch_code_a.numpy()
    return network


# --- timm: one or two of each family, by the file that defines them ---------------------------------------------------

TIMM = {
    "byobnet": "bat_resnext26ts eca_resnet33ts gcresnet33ts gcresnext26ts gernet_s mobileone_s0 mobileone_s4 "
    "regnetz_b16 regnetz_d8_evos repvgg_a0 repvgg_b1g4 resnet51q resnet50_clip_gap resnext26ts seresnet33ts",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto convnext_atto_rms convnext_tiny convnextv2_atto convnextv2_nano",
    "cpubone": "cpubone_nano cpubone_b0_bfrobust",
    "cspnet": "cs3darknet_focus_s cs3darknet_s cs3sedarknet_l cspdarknet53 cspresnet50 cspresnext50 darknet17 "
    "darknetaa53",
    "cspnext": "cspnext_tiny",
    "densenet": "densenet121 densenetblur121d",
    "dla": "dla34 dla46x_c dla60_res2net dla60_res2next",
    "dpn": "dpn48b dpn68",
    "efficientnet": "efficientnet_b0 efficientnet_b0_gn efficientnet_b0_g16_evos efficientnet_blur_b0 "
    "efficientnet_cc_b0_4e efficientnet_es efficientnet_lite0 efficientnetv2_rw_t efficientnet_x_b3 fbnetc_100 "
    "gc_efficientnetv2_rw_t mixnet_s mnasnet_100 mnasnet_small mobilenet_edgetpu_100 mobilenet_edgetpu_v2_xs "
    "mobilenetv1_100 mobilenetv2_100 semnasnet_100 spnasnet_100 tf_efficientnet_b0 tf_efficientnetv2_b0 tf_mixnet_s "
    "tinynet_e",
    "fasternet": "fasternet_t0",
    "focalnet": "focalnet_tiny_srf",
    "ghostnet": "ghostnet_050 ghostnetv2_100 ghostnetv3_050",
    "hardcorenas": "hardcorenas_a",
    "hgnet": "hgnet_tiny hgnetv2_b0",
    "hrnet": "hrnet_w18_small hrnet_w18_small_v2",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "mambaout": "mambaout_femto",
    "metaformer": "convformer_s18 poolformer_s12 poolformerv2_s12",
    "mobilenetv3": "fbnetv3_b lcnet_050 mobilenetv3_small_100 mobilenetv3_rw mobilenetv4_conv_small "
    "mobilenetv4_conv_aa_medium tf_mobilenetv3_small_minimal_100",
    "mobilenetv5": "mobilenetv5_base",
    "nasnet": "nasnetalarge",
    "nfnet": "dm_nfnet_f0 eca_nfnet_l0 nf_ecaresnet26 nf_regnet_b0 nf_resnet26 nf_seresnet26 nfnet_l0",
    "pnasnet": "pnasnet5large",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetv_040 regnetx_002 regnety_002 regnety_040_sgn regnetz_005",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m0_9",
    "res2net": "res2net50_14w_8s res2next50",
    "resnest": "resnest14d resnest50d_4s2x40d",
    "resnet": "ecaresnet26t ecaresnetlight ecaresnext26t_32x4d resnet10t resnet18 resnet26t resnet50_gn resnet50s "
    "resnetaa34d resnetblur18 resnetrs50 resnext50_32x4d seresnet18 seresnextaa101d_32x8d wide_resnet50_2",
    "resnetv2": "resnetv2_18 resnetv2_50d resnetv2_50d_evos resnetv2_50d_frn resnetv2_50d_gn resnetv2_50x1_bit",
    "rexnet": "rexnet_100 rexnetr_100",
    "selecsls": "selecsls42b selecsls60",
    "senet": "legacy_seresnet18 legacy_seresnext26_32x4d",
    "sknet": "skresnet18 skresnext50_32x4d",
    "starnet": "starnet_s050 starnet_s1",
    "tresnet": "tresnet_m tresnet_v2_l",
    "vgg": "vgg11 vgg11_bn",
    "vovnet": "eca_vovnet39b ese_vovnet19b_slim_dw ese_vovnet39b_evos vovnet39a",
    "xception": "legacy_xception",
    "xception_aligned": "xception41 xception41p",
}

HYBRID = {  # convolutions with attention, recurrence or a state space in one network
    "byoanet": "botnet26t_256 halonet26t lambda_resnet26t",
    "coat": "coat_lite_tiny",
    "csatv2": "csatv2",
    "davit": "davit_tiny",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0 efficientvit_l1",
    "efficientvit_msra": "efficientvit_m0",
    "fastvit": "fastvit_t8 fastvit_sa12",
    "gcvit": "gcvit_xxtiny",
    "iformer": "iformer_t",
    "levit": "levit_128s levit_conv_128s",
    "lowformer": "lowformer_b0",
    "maxxvit": "coatnet_nano_rw_224 maxvit_nano_rw_256",
    "metaformer": "caformer_s18",
    "mobilenetv3": "mobilenetv4_hybrid_medium",
    "mobilevit": "mobilevit_xxs mobilevitv2_050",
    "nextvit": "nextvit_small",
    "pvt_v2": "pvt_v2_b0",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "swiftformer": "swiftformer_xs",
    "tiny_vit": "tiny_vit_5m_224",
    "visformer": "visformer_tiny",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vitamin": "vitamin_small_224",
}

TIMM_LEFT_OUT = (
    "beit cait convit crossvit deepseek_vit deit eva gemma4_vit hiera hieradet_sam2 mlp_mixer mvitv2 naflexvit nest "
    "pit qwen3_vit swin_transformer swin_transformer_v2 swin_transformer_v2_cr tnt twins vision_transformer "
    "vision_transformer_relpos vision_transformer_sam volo xcit"
).split()


def timm_entries() -> list[Entry]:
    """The convolutional families; fails where timm has a family that is in none of the lists."""
    import_torchvision()
    registry = importlib.import_module("timm.models._registry")
    unknown = set(registry._module_to_models) - {*TIMM, *HYBRID, *TIMM_LEFT_OUT}
    if unknown:
        raise LookupError(f"timm has families that are in none of the lists: {sorted(unknown)}")
    return [_timm("timm", name) for names in TIMM.values() for name in names.split()]


def hybrid_entries() -> list[Entry]:
    import_torchvision()
    return [_timm("hybrid", name) for names in HYBRID.values() for name in names.split()]


def _timm(library, name):
    timm = importlib.import_module("timm")
    config = timm.models.get_pretrained_cfg(name)
    shape = tuple(config.input_size) if config is not None else (3, 224, 224)
    sides = () if config is not None and config.fixed_input_size else smaller(shape[1])
    return Entry(library, name, lambda: timm.create_model(name, pretrained=False), shape, sides)
