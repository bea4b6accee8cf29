-- What waits, in the order of arrival: the next dispatches without a look at every batch.
CREATE INDEX outbox_arrivals ON outbox (kind, priority, available_at, id) WHERE topic = 'dispatch' AND taken_until IS NULL;
