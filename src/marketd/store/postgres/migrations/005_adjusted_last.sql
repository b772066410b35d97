-- Bars whose prices were adjusted before they came (providers named "…:adjusted") are given where there is no raw one.

CREATE OR REPLACE VIEW v_candles AS
    SELECT DISTINCT ON (symbol, interval, side, ts, ts_nanos)
        symbol, interval, side, ts, open, high, low, close, volume, vwap, trades, provider, status, as_of
    FROM (
        SELECT DISTINCT ON (symbol, interval, side, ts, ts_nanos, provider) *
        FROM v_candle_versions
        ORDER BY symbol, interval, side, ts, ts_nanos, provider, as_of_ns DESC
    ) AS last_of_provider
    WHERE status <> 'withdrawn'
    ORDER BY symbol, interval, side, ts, ts_nanos, provider LIKE '%:adjusted', as_of_ns DESC, provider;

CREATE OR REPLACE FUNCTION candles_as_of(at timestamptz) RETURNS SETOF v_candles LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT DISTINCT ON (symbol, interval, side, ts, ts_nanos)
        symbol, interval, side, ts, open, high, low, close, volume, vwap, trades, provider, status, as_of
    FROM (
        SELECT DISTINCT ON (symbol, interval, side, ts, ts_nanos, provider) *
        FROM v_candle_versions
        WHERE as_of_ns <= marketd_ns(at)
        ORDER BY symbol, interval, side, ts, ts_nanos, provider, as_of_ns DESC
    ) AS last_of_provider
    WHERE status <> 'withdrawn'
    ORDER BY symbol, interval, side, ts, ts_nanos, provider LIKE '%:adjusted', as_of_ns DESC, provider
$$;
