"""A vision transformer of Hugging Face: cut to a budget, trained by its own Trainer, then in int8 and in OpenVINO.

    pip install 'secateur[mnist,onnx,hugging-face]'
    python examples/hugging_face/run.py --out runs/hugging_face

Heads, widths of MLPs and of the embedding go. What is left is still a ViTForImageClassification, so the Trainer takes
it as it takes any other.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import openvino
import torch
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import secateur as sc

MEAN, STD = 0.1307, 0.3081


def digits():
    """Pictures as the network takes them with labels, for training and for the test."""
    task = sc.data.Data(reader="mnist5k").task()
    return {
        name: ((pictures / 255 - MEAN) / STD, labels)
        for name, (pictures, labels) in {"train": task.train, "test": task.test}.items()
    }


def network():
    """A ViT with random weights, small enough for two cores."""
    config = ViTConfig(
        image_size=28,
        patch_size=7,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        num_labels=10,
    )
    return ViTForImageClassification(config)


def trained(model, data, *, epochs, lr, out):
    """The model after some epochs of the Trainer, which knows nothing of pruning."""
    settings = TrainingArguments(
        output_dir=str(out),
        num_train_epochs=epochs,
        learning_rate=lr,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        per_device_train_batch_size=64,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=True,
        seed=0,
    )
    rows = [{"pixel_values": x, "labels": y} for x, y in zip(*data["train"], strict=True)]
    Trainer(model=model, args=settings, train_dataset=rows).train()
    return model.eval()


def error(answers, data):
    """Share of wrong answers on the test pictures."""
    pictures, labels = data["test"]
    with torch.no_grad():
        found = torch.cat([torch.as_tensor(answers(batch)) for batch in pictures.split(250)])
    return float((found.argmax(1) != labels).float().mean())


def within(model, data, macs):
    """The model within a share of its multiply-adds, solved on pictures without labels."""
    return sc.prune(model, data["train"][0][:512], budget=sc.Budget(macs=macs), progress=None)


def in_int8(model):
    """A copy with the weights of linear layers in eight bits, by torchao."""
    copied = copy.deepcopy(model)
    quantize_(copied, Int8WeightOnlyConfig())
    return copied


def main():
    """Train, cut, train again, write, and print the errors of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/hugging_face"))
    parser.add_argument("--macs", type=float, default=0.4)
    parser.add_argument("--tiny", action="store_true", help="few pictures and epochs, to see that it runs")
    given = parser.parse_args()
    torch.manual_seed(0)
    data = digits()
    if given.tiny:
        data = {name: (pictures[:256], labels[:256]) for name, (pictures, labels) in data.items()}

    full = trained(network(), data, epochs=1 if given.tiny else 40, lr=2e-3, out=given.out / "full")
    cut = within(full, data, given.macs)
    errors = {"full": error(lambda x: full(x).logits, data), "cut": error(lambda x: cut.network(x).logits, data)}
    small = trained(cut.network, data, epochs=1 if given.tiny else 20, lr=1e-3, out=given.out / "small")
    errors["trained again"] = error(lambda x: small(x).logits, data)

    made = {"model": full, "space": cut.space, "candidate": cut.candidate, "scores": cut.scores}
    notes = {"preprocessing": {"mean": [MEAN], "std": [STD]}}
    sc.save(given.out / "export", small, **made, formats=["onnx"], notes=notes)
    again = sc.load(given.out / "export", model=full)
    errors["loaded"] = error(lambda x: again(x).logits, data)
    compiled = openvino.Core().compile_model(given.out / "export" / "model.onnx", "CPU")
    errors["in OpenVINO"] = error(lambda x: compiled(x.numpy())[0], data)
    whole = in_int8(small)
    errors["int8 weights, torchao"] = error(lambda x: whole(x).logits, data)

    costs = cut.space.costs([cut.candidate])
    print(f"{costs.macs[0] / cut.space.full_costs['macs']:.1%} of the multiply-adds, {costs.params[0]:,} parameters")
    print("\n".join(f"| {name} | {found:.1%} |" for name, found in errors.items()))


if __name__ == "__main__":
    main()
