"""The client: train and evaluate the model it is sent."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from .task import build_model, load_data, load_work, test
from .task import train as train_model

app = ClientApp()


def _bytes(record: ArrayRecord) -> int:
    return sum(len(array.data) for array in record.values())


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train for a round."""
    torch.set_num_threads(1)
    folder = str(context.run_config["work"])
    work = load_work(folder)
    received = msg.content.array_records["arrays"]
    model = build_model(work)
    model.load_state_dict(received.to_torch_state_dict())
    data = load_data(folder, int(context.node_config["partition-id"]), "train")
    loss = train_model(model, data, int(context.run_config["steps"]), work["batch"])
    arrays = ArrayRecord(model.state_dict())
    metrics = MetricRecord(
        {
            "num-examples": len(data[1]),
            "loss": loss,
            "bytes-down": _bytes(received),
            "bytes-up": _bytes(arrays),
        }
    )
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate on the validation images."""
    torch.set_num_threads(1)
    folder = str(context.run_config["work"])
    work = load_work(folder)
    model = build_model(work)
    model.load_state_dict(msg.content.array_records["arrays"].to_torch_state_dict())
    data = load_data(folder, int(context.node_config["partition-id"]), "val")
    accuracy = test(model, data, work["batch"])
    metrics = MetricRecord({"num-examples": len(data[1]), "accuracy": accuracy})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
