-- Bars, every version of them. Rows are only ever added. {partitioned} is nothing where tables become hypertables.
-- Times: ts is the bar's start to the microsecond, ts_nanos the nanoseconds after that (0 to 999); as_of_ns is
-- nanoseconds since 1970, UTC. Text is ordered by its bytes.

-- in two parts: a double has no room for the microseconds since 1970 after 2255
CREATE FUNCTION marketd_time(ns bigint) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT timestamptz '1970-01-01 00:00:00+00'
        + ((ns - ((ns % 1000) + 1000) % 1000) / 1000000000) * interval '1 second'
        + ((ns - ((ns % 1000) + 1000) % 1000) % 1000000000 / 1000) * interval '1 microsecond'
$$;

CREATE FUNCTION marketd_ns(at timestamptz) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT (extract(epoch FROM at) * 1000000)::bigint * 1000 $$;

CREATE TABLE candles_intraday (
    symbol text COLLATE "C" NOT NULL,
    interval text COLLATE "C" NOT NULL CHECK (interval IN ('1s', '1m')),
    side text COLLATE "C" NOT NULL,
    ts timestamptz NOT NULL,
    ts_nanos smallint NOT NULL,
    open double precision NOT NULL,
    high double precision NOT NULL,
    low double precision NOT NULL,
    close double precision NOT NULL,
    volume double precision,
    vwap double precision,
    trades bigint,
    provider text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    as_of_ns bigint NOT NULL
) {partitioned};

CREATE UNIQUE INDEX candles_intraday_key
    ON candles_intraday (symbol, interval, side, ts, ts_nanos, provider, as_of_ns DESC);
CREATE INDEX candles_intraday_withdrawn ON candles_intraday (interval, side, ts, symbol) WHERE status = 'withdrawn';

CREATE TABLE candles_long (
    symbol text COLLATE "C" NOT NULL,
    interval text COLLATE "C" NOT NULL CHECK (interval <> '1s' AND interval <> '1m'),
    side text COLLATE "C" NOT NULL,
    ts timestamptz NOT NULL,
    ts_nanos smallint NOT NULL,
    open double precision NOT NULL,
    high double precision NOT NULL,
    low double precision NOT NULL,
    close double precision NOT NULL,
    volume double precision,
    vwap double precision,
    trades bigint,
    provider text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    as_of_ns bigint NOT NULL
) {partitioned};

CREATE UNIQUE INDEX candles_long_key ON candles_long (symbol, interval, side, ts, ts_nanos, provider, as_of_ns DESC);
CREATE INDEX candles_long_withdrawn ON candles_long (interval, side, ts, symbol) WHERE status = 'withdrawn';

-- which series have bars: what an index of the tables above would take long to tell
CREATE TABLE candle_series (
    symbol text COLLATE "C" NOT NULL,
    interval text COLLATE "C" NOT NULL,
    side text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    PRIMARY KEY (symbol, interval, side, provider)
);

CREATE VIEW v_candle_versions AS
    SELECT symbol, interval, side, ts, ts_nanos, open, high, low, close, volume, vwap, trades, provider, status,
        as_of_ns, marketd_time(as_of_ns) AS as_of
    FROM candles_intraday
    UNION ALL
    SELECT symbol, interval, side, ts, ts_nanos, open, high, low, close, volume, vwap, trades, provider, status,
        as_of_ns, marketd_time(as_of_ns) AS as_of
    FROM candles_long;

CREATE VIEW v_candles AS
    SELECT DISTINCT ON (symbol, interval, side, ts, ts_nanos)
        symbol, interval, side, ts, open, high, low, close, volume, vwap, trades, provider, status, as_of
    FROM (
        SELECT DISTINCT ON (symbol, interval, side, ts, ts_nanos, provider) *
        FROM v_candle_versions
        ORDER BY symbol, interval, side, ts, ts_nanos, provider, as_of_ns DESC
    ) AS last_of_provider
    WHERE status <> 'withdrawn'
    ORDER BY symbol, interval, side, ts, ts_nanos, as_of_ns DESC, provider;

CREATE FUNCTION candles_as_of(at timestamptz) RETURNS SETOF v_candles LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT DISTINCT ON (symbol, interval, side, ts, ts_nanos)
        symbol, interval, side, ts, open, high, low, close, volume, vwap, trades, provider, status, as_of
    FROM (
        SELECT DISTINCT ON (symbol, interval, side, ts, ts_nanos, provider) *
        FROM v_candle_versions
        WHERE as_of_ns <= marketd_ns(at)
        ORDER BY symbol, interval, side, ts, ts_nanos, provider, as_of_ns DESC
    ) AS last_of_provider
    WHERE status <> 'withdrawn'
    ORDER BY symbol, interval, side, ts, ts_nanos, as_of_ns DESC, provider
$$;
