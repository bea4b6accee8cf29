-- Who is told of the end of a batch.

CREATE TABLE batch_webhooks (
    batch      TEXT    NOT NULL,
    url        TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    ended_at   INTEGER,                  -- when the call was put into webhooks; null: the batch goes on
    PRIMARY KEY (batch, url)
) STRICT, WITHOUT ROWID;

CREATE INDEX batch_webhooks_open ON batch_webhooks (batch) WHERE ended_at IS NULL;
