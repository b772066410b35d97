-- Universe, ledger, jobs, actions, observations. Rows of symbol_universe, corporate_actions and macro_factors are only
-- ever added. Times end in _ns: nanoseconds since 1970, UTC.

CREATE TABLE universe_versions (
    version integer PRIMARY KEY,
    as_of_ns bigint NOT NULL,
    source text NOT NULL,
    instruments integer NOT NULL,
    active integer NOT NULL,
    changed integer NOT NULL
);

-- what a version changed; symbol is null for an instrument that went
CREATE TABLE symbol_universe (
    id text COLLATE "C" NOT NULL,
    version integer NOT NULL REFERENCES universe_versions,
    symbol text COLLATE "C",
    exchange text,
    asset_class text,
    currency text,
    tier text,
    active boolean,
    rank bigint,
    names jsonb,
    PRIMARY KEY (id, version)
);

-- symbol '' is all symbols; spans of one interval, symbol, provider and reason do not overlap
CREATE TABLE answered_spans (
    interval text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    reason text COLLATE "C" NOT NULL,
    start_ns bigint NOT NULL,
    end_ns bigint NOT NULL,
    as_of_ns bigint NOT NULL,
    PRIMARY KEY (interval, symbol, provider, reason, end_ns)
);
CREATE INDEX answered_spans_by_end ON answered_spans (interval, end_ns);

CREATE TABLE ingestion_cursor (
    symbol text COLLATE "C" NOT NULL,
    interval text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    until_ns bigint NOT NULL,
    updated_ns bigint NOT NULL,
    PRIMARY KEY (symbol, interval, provider)
);
CREATE INDEX ingestion_cursor_by_interval ON ingestion_cursor (interval, symbol, provider);

CREATE TABLE backfill_jobs (
    id text COLLATE "C" PRIMARY KEY,
    symbol text COLLATE "C" NOT NULL,
    interval text COLLATE "C" NOT NULL,
    start_ns bigint NOT NULL,
    end_ns bigint NOT NULL,
    tier text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    provider text COLLATE "C",
    state text COLLATE "C" NOT NULL,
    done_ns bigint,
    bars bigint NOT NULL,
    new_versions bigint NOT NULL,
    no_trades bigint NOT NULL,
    quarantined bigint NOT NULL,
    attempts bigint NOT NULL,
    error text,
    created_ns bigint NOT NULL,
    updated_ns bigint NOT NULL,
    not_before_ns bigint NOT NULL
);
CREATE INDEX backfill_jobs_by_state ON backfill_jobs (state, tier, created_ns, id);
CREATE INDEX backfill_jobs_by_range ON backfill_jobs (symbol, interval, start_ns, end_ns);
CREATE INDEX backfill_jobs_by_age ON backfill_jobs (created_ns, id);

CREATE TABLE corporate_actions (
    symbol text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    ex_ns bigint NOT NULL,
    provider text COLLATE "C" NOT NULL,
    as_of_ns bigint NOT NULL,
    ratio double precision,
    amount double precision,
    currency text,
    new_symbol text,
    withdrawn boolean NOT NULL,
    PRIMARY KEY (symbol, kind, ex_ns, provider, as_of_ns)
);

-- value null: withdrawn
CREATE TABLE macro_factors (
    series text COLLATE "C" NOT NULL,
    ts_ns bigint NOT NULL,
    provider text COLLATE "C" NOT NULL,
    as_of_ns bigint NOT NULL,
    value double precision,
    PRIMARY KEY (series, ts_ns, provider, as_of_ns)
);

CREATE VIEW v_universe AS
    SELECT symbol, id, exchange, asset_class, currency, tier, active, rank, names, version
    FROM (SELECT DISTINCT ON (id) * FROM symbol_universe ORDER BY id, version DESC) AS last_of_instrument
    WHERE symbol IS NOT NULL;

-- holes that are accounted for: answered, or on the list of what is to be fetched
CREATE VIEW v_gaps AS
    SELECT nullif(symbol, '') AS symbol, interval, provider, marketd_time(start_ns) AS starts,
        marketd_time(end_ns) AS ends, reason, marketd_time(as_of_ns) AS known_since
    FROM answered_spans
    UNION ALL
    SELECT symbol, interval, provider, marketd_time(coalesce(done_ns, start_ns)), marketd_time(end_ns),
        'not_fetched', marketd_time(created_ns)
    FROM backfill_jobs
    WHERE state IN ('queued', 'running', 'parked');

CREATE VIEW v_cursors AS
    SELECT symbol, interval, provider, marketd_time(until_ns) AS until, marketd_time(updated_ns) AS updated
    FROM ingestion_cursor;

CREATE VIEW v_jobs AS
    SELECT id, symbol, interval, marketd_time(start_ns) AS starts, marketd_time(end_ns) AS ends, tier, reason, provider,
        state, marketd_time(done_ns) AS done, bars, new_versions, no_trades, quarantined, attempts, error,
        marketd_time(created_ns) AS created, marketd_time(updated_ns) AS updated, marketd_time(not_before_ns) AS not_before
    FROM backfill_jobs;

CREATE VIEW v_actions AS
    SELECT symbol, kind, marketd_time(ex_ns)::date AS ex_date, provider, ratio, amount, currency, new_symbol,
        marketd_time(as_of_ns) AS as_of
    FROM (
        SELECT DISTINCT ON (symbol, kind, ex_ns, provider) * FROM corporate_actions
        ORDER BY symbol, kind, ex_ns, provider, as_of_ns DESC
    ) AS last_version
    WHERE NOT withdrawn;

CREATE VIEW v_macro AS
    SELECT series, marketd_time(ts_ns) AS ts, provider, value, marketd_time(as_of_ns) AS as_of
    FROM (
        SELECT DISTINCT ON (series, ts_ns, provider) * FROM macro_factors
        ORDER BY series, ts_ns, provider, as_of_ns DESC
    ) AS last_version
    WHERE value IS NOT NULL;
