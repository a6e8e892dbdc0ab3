"""kafka-python with psycopg2: a row before each notification and a row after it, the offsets of a poll after all of its records.

Consumes topics that are full, one after the other, and prints for each the seconds from its first record to its last.
Arguments: TOPIC:ORDERS for each topic. The rest comes from the environment: BOOTSTRAP_SERVERS, DATABASE_URL, LONGEST_WORK_MILLIS.
"""

import json
import os
import sys
import time

import psycopg2
from kafka import KafkaConsumer

CLAIM = """INSERT INTO peer_ledger (order_id, event_type, kpartition, koffset) VALUES (%s, %s, %s, %s)
           ON CONFLICT (order_id, event_type) DO UPDATE SET claimed_at = now() WHERE peer_ledger.state = 'c'"""
SETTLE = "UPDATE peer_ledger SET state = 'd', settled_at = now() WHERE order_id = %s AND event_type = %s"

MASK = 2**64 - 1


def work(order_id, longest_millis):
    """A sleep whose length follows from the order id, in the same way for all that are measured."""
    if longest_millis:
        time.sleep(mixed(order_id) % (longest_millis + 1) / 1000)


def mixed(value):
    """SplitMix64, as in benches/end_to_end/work.rs."""
    mixed = (value + 0x9E3779B97F4A7C15) & MASK
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & MASK
    return mixed ^ (mixed >> 31)


def handle(cursor, record, longest_millis):
    event = json.loads(record.value)
    order_id, event_type = event["order"]["order_id"], event["event_type"]
    # The connection commits by itself: each statement is durable when it returns.
    cursor.execute(CLAIM, (order_id, event_type, record.partition, record.offset))
    if cursor.rowcount == 1:
        work(order_id, longest_millis)
        cursor.execute(SETTLE, (order_id, event_type))


def consume(topic, orders, cursor, longest_millis):
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=os.environ["BOOTSTRAP_SERVERS"],
        group_id=f"{topic}-peer",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    started, handled = None, 0
    while handled < orders:
        for records in consumer.poll(timeout_ms=100).values():
            started = started or time.monotonic()
            for record in records:
                handle(cursor, record, longest_millis)
            handled += len(records)
        consumer.commit()
    seconds = time.monotonic() - started
    consumer.close()
    return seconds


def main():
    connection = psycopg2.connect(os.environ["DATABASE_URL"])
    connection.autocommit = True
    longest_millis = int(os.environ["LONGEST_WORK_MILLIS"])
    with connection.cursor() as cursor:
        for argument in sys.argv[1:]:
            topic, orders = argument.rsplit(":", 1)
            print(f"{topic} {consume(topic, int(orders), cursor, longest_millis):.4f}", flush=True)


main()
