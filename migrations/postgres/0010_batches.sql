-- Who is told of the end of a batch.

CREATE TABLE batch_webhooks (
    batch      TEXT   COLLATE "C" NOT NULL,
    url        TEXT   COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    ended_at   BIGINT,                                -- when the call was put into webhooks; null: the batch goes on
    PRIMARY KEY (batch, url)
);

CREATE INDEX batch_webhooks_open ON batch_webhooks (batch) WHERE ended_at IS NULL;
