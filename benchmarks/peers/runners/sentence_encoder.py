"""The peers that encode once: sentence-transformers with a linear head that learns by steps on the
kept embeddings, or with scikit-learn's logistic regression; and SetFit's head on a frozen body.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report import raw, start


def main() -> None:
    job, settings, out, report = start()
    rows = raw(job)
    texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    report.batch(job["tokens"], job["targets"])
    way = {"steps": by_steps, "solver": by_solver, "setfit": by_setfit}[settings["way"]]
    weight, bias, normalised = way(job, texts, labels)
    report.trained()
    write(out / "model", weight, bias, normalised)
    report.saved()


def by_steps(job: dict[str, Any], texts: list[str], labels: list[int]) -> tuple[Any, Any, bool]:
    """Encode once; ten epochs of AdamW on the embeddings."""
    import torch

    features, normalised = embeddings(job, texts)
    torch.manual_seed(job["seed"])
    linear = torch.nn.Linear(features.shape[1], len(job["labels"]))
    optimizer = torch.optim.AdamW(linear.parameters(), lr=job["learning_rate"])
    targets = torch.tensor(labels)
    for _ in range(job["epochs"]):
        for chosen in torch.randperm(len(texts)).split(job["batch"]):
            loss = torch.nn.functional.cross_entropy(linear(features[chosen]), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return linear.weight.detach(), linear.bias.detach(), normalised


def by_solver(job: dict[str, Any], texts: list[str], labels: list[int]) -> tuple[Any, Any, bool]:
    """Encode once; logistic regression with scikit-learn's defaults."""
    from sklearn.linear_model import LogisticRegression

    features, normalised = embeddings(job, texts)
    fitted = LogisticRegression(max_iter=1000).fit(features.numpy(), labels)
    return *of_sklearn(fitted), normalised


def by_setfit(job: dict[str, Any], texts: list[str], labels: list[int]) -> tuple[Any, Any, bool]:
    """SetFit's model with its default head, its body left as it is."""
    from setfit import SetFitModel

    model = SetFitModel.from_pretrained(job["path"])
    model.fit(texts, labels, num_epochs=job["epochs"], batch_size=job["batch"])
    return *of_sklearn(model.model_head), normalises(model.model_body)


def embeddings(job: dict[str, Any], texts: list[str]) -> tuple[Any, bool]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job["path"])
    features = model.encode(texts, batch_size=job["batch"], convert_to_tensor=True)
    return features.clone().cpu(), normalises(model)


def normalises(model: Any) -> bool:
    return any(type(module).__name__ == "Normalize" for module in model)


def of_sklearn(fitted: Any) -> tuple[Any, Any]:
    """Weight and bias of both classes: scikit-learn keeps those of the second alone."""
    import torch

    weight, bias = torch.tensor(fitted.coef_).float(), torch.tensor(fitted.intercept_).float()
    if len(weight) == 1:
        weight = torch.cat([torch.zeros_like(weight), weight])
        bias = torch.cat([torch.zeros_like(bias), bias])
    return weight, bias


def write(folder: Path, weight: Any, bias: Any, normalised: bool) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    parts = {"weight": weight.contiguous(), "bias": bias.contiguous()}
    save_file(parts, folder / "head.safetensors")
    (folder / "head.json").write_text(json.dumps({"normalised": normalised}))


if __name__ == "__main__":
    main()
