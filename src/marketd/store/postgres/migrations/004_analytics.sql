-- Numbers that are computed from bars and quotes: each row is one result, as of the moment it was computed for.
-- Times as in 001.

CREATE TABLE options_metrics (
    underlying text COLLATE "C" NOT NULL,
    ts timestamptz NOT NULL,
    ts_nanos smallint NOT NULL DEFAULT 0,
    expiry date NOT NULL,
    metric text COLLATE "C" NOT NULL,
    strike double precision NOT NULL DEFAULT 'NaN',
    value double precision,
    provider text COLLATE "C" NOT NULL,
    as_of_ns bigint NOT NULL
) {partitioned};

CREATE UNIQUE INDEX options_metrics_key
    ON options_metrics (underlying, metric, expiry, strike, ts, ts_nanos, provider, as_of_ns DESC);

CREATE TABLE indicator_values (
    symbol text COLLATE "C" NOT NULL,
    interval text COLLATE "C" NOT NULL,
    indicator text COLLATE "C" NOT NULL,
    parameters text COLLATE "C" NOT NULL DEFAULT '',
    output text COLLATE "C" NOT NULL DEFAULT 'value',
    ts timestamptz NOT NULL,
    ts_nanos smallint NOT NULL DEFAULT 0,
    value double precision,
    as_of_ns bigint NOT NULL
) {partitioned};

CREATE UNIQUE INDEX indicator_values_key
    ON indicator_values (symbol, interval, indicator, parameters, output, ts, ts_nanos, as_of_ns DESC);

CREATE VIEW v_options_metrics AS
    SELECT DISTINCT ON (underlying, metric, expiry, strike, ts, ts_nanos, provider)
        underlying, ts, expiry, metric, nullif(strike, 'NaN') AS strike, value, provider, marketd_time(as_of_ns) AS as_of
    FROM options_metrics
    ORDER BY underlying, metric, expiry, strike, ts, ts_nanos, provider, as_of_ns DESC;

CREATE VIEW v_indicators AS
    SELECT DISTINCT ON (symbol, interval, indicator, parameters, output, ts, ts_nanos)
        symbol, interval, indicator, parameters, output, ts, value, marketd_time(as_of_ns) AS as_of
    FROM indicator_values
    ORDER BY symbol, interval, indicator, parameters, output, ts, ts_nanos, as_of_ns DESC;
