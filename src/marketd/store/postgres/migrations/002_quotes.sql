-- The newest quote of each symbol, every few seconds, when `quote_log_seconds` is set. Times as in 001.

CREATE TABLE quotes_l1 (
    symbol text COLLATE "C" NOT NULL,
    ts timestamptz NOT NULL,
    ts_nanos smallint NOT NULL,
    received_ns bigint NOT NULL,
    source text COLLATE "C" NOT NULL,
    bid double precision,
    ask double precision,
    bid_size double precision,
    ask_size double precision,
    last double precision,
    volume double precision
) {partitioned};

CREATE UNIQUE INDEX quotes_l1_key ON quotes_l1 (symbol, ts, ts_nanos, source, received_ns);

CREATE VIEW v_quotes AS
    SELECT symbol, ts, ts_nanos, marketd_time(received_ns) AS received, source, bid, ask, bid_size, ask_size, last,
        volume, (bid + ask) / 2 AS mid
    FROM quotes_l1;
