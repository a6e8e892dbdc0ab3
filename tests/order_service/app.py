"""The order service in the field, reduced to what its consumers see.

It creates an order, gives it a number and tells `order_events`: without a record key, with acks=all, and with the string "N/A" where
the caller sent no header.
"""

import itertools
import json
import os
from contextlib import asynccontextmanager

from fastapi import FastAPI, Header
from kafka import KafkaProducer
from pydantic import BaseModel, PositiveInt

TOPIC = os.environ.get("KAFKA_TOPIC", "order_events")
BOOTSTRAP_SERVERS = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")


class NewOrder(BaseModel):
    user_id: int
    product_id: int
    quantity: PositiveInt


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.producer = KafkaProducer(
        bootstrap_servers=BOOTSTRAP_SERVERS.split(","),
        acks="all",
        value_serializer=lambda event: json.dumps(event).encode(),
    )
    yield
    app.state.producer.close()


app = FastAPI(title="Order service", lifespan=lifespan)
order_ids = itertools.count(1)


# Not `async`: the answer waits for Kafka, on a thread of its own.
@app.post("/orders", status_code=201)
def create_order(
    new_order: NewOrder,
    x_request_id: str = Header("N/A"),
    x_timestamp: str = Header("N/A"),
):
    order = {"order_id": next(order_ids), **new_order.model_dump(), "status": "CREATED"}
    event = {
        "event_type": "ORDER_CREATED",
        "order": order,
        "timestamp": x_timestamp,
        "request_id": x_request_id,
    }
    app.state.producer.send(TOPIC, event).get(timeout=30)
    return order
