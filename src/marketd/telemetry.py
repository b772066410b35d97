"""What happened, as numbers. Rooms count here; `api` renders it as Prometheus text.

One registry per server (not the process-wide default), so that two engines in one program do not add up.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["Metrics"]


class Metrics:
    """Every metric of the server, named once."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.ticks_received = Counter("marketd_ticks_received_total", "Ticks that sources sent", ["source"], registry=r)
        self.ticks_accepted = Counter("marketd_ticks_accepted_total", "Ticks accepted", ["source"], registry=r)
        self.ticks_quarantined = Counter(
            "marketd_ticks_quarantined_total", "Ticks or lines kept apart, by reason", ["source", "reason"], registry=r
        )
        self.ticks_flagged = Counter(
            "marketd_ticks_flagged_total", "Ticks accepted with a remark, by remark", ["source", "flag"], registry=r
        )
        self.source_up = Gauge("marketd_source_connected", "1 while the source's stream is up", ["source"], registry=r)
        self.source_disconnects = Counter(
            "marketd_source_disconnects_total", "Times a source's stream was lost", ["source"], registry=r
        )
        self.bars_stored = Counter("marketd_bars_stored_total", "Bar versions made durable", ["interval"], registry=r)
        self.store_append_seconds = Histogram(
            "marketd_store_append_seconds",
            "Time of one durable append",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
            registry=r,
        )
        self.store_errors = Counter("marketd_store_errors_total", "Appends that failed and are retried", registry=r)
        self.ws_clients = Gauge("ws_clients_gauge", "Connected WebSocket clients", registry=r)
        self.ws_messages = Counter("ws_messages_total", "Messages handed to clients' sockets", registry=r)
        self.ws_missed = Counter(
            "ws_missed_messages_total", "Messages withheld from clients that did not read", registry=r
        )
        self.ws_closed_slow = Counter("ws_closed_slow_total", "Clients closed because they did not keep up", registry=r)
        self.flush_seconds = Histogram(
            "ws_flush_seconds",
            "Time of one flush to all clients",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
            registry=r,
        )
        self.cache_errors = Counter("marketd_quote_cache_errors_total", "Quote-cache writes that failed", registry=r)
        self.bars_quarantined = Counter(
            "marketd_bars_quarantined_total", "Fetched or imported bars kept apart", ["provider", "reason"], registry=r
        )
        self.write_batch_ms = Histogram(
            "write_batch_ms",
            "Time of one durable append of bars, ms",
            buckets=(1, 2.5, 5, 10, 25, 50, 100, 250, 1000, 5000),
            registry=r,
        )
        self.jobs_processed = Counter(
            "jobs_processed_total", "Jobs of the collector and of the job list", ["type", "provider"], registry=r
        )
        self.jobs_failed = Counter("jobs_failed_total", "Jobs that failed, by reason", ["type", "reason"], registry=r)
        self.gaps_found = Counter("gaps_found_total", "Gaps noticed on write or by a scan", ["interval"], registry=r)
        self.backfill_enqueued = Counter(
            "backfill_jobs_enqueued_total", "Back-fill jobs taken into the queue", ["tier"], registry=r
        )
        self.backfill_completed = Counter(
            "backfill_jobs_completed_total", "Back-fill jobs that ended", ["tier", "status"], registry=r
        )
        self.backfill_depth = Gauge("backfill_queue_depth", "Back-fill jobs waiting", ["tier"], registry=r)
        self.backfill_oldest = Gauge(
            "backfill_oldest_age_seconds", "Age of the oldest waiting back-fill job", ["tier"], registry=r
        )
        self.ingestion_lag = Gauge(
            "ingestion_lag_seconds", "Time since the end of the newest stored bar", ["interval"], registry=r
        )
        self.provider_latency = Histogram(
            "provider_latency_ms",
            "Time of one request to a provider, ms",
            ["provider", "endpoint"],
            buckets=(5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000),
            registry=r,
        )
        self.provider_errors = Counter(
            "provider_errors_total", "Requests to a provider that failed", ["provider", "endpoint", "code"], registry=r
        )
        self.provider_selected = Counter(
            "provider_selected_total", "Times a provider was asked", ["capability", "provider"], registry=r
        )
        self.provider_switches = Counter(
            "provider_switches_total",
            "Times a live stream went from one provider to another",
            ["capability", "provider", "reason"],
            registry=r,
        )
        self.circuit_state = Gauge(
            "circuit_state",
            "0 open, 0.5 half-open, 1 closed: the worst of a provider's circuits",
            ["provider"],
            registry=r,
        )
