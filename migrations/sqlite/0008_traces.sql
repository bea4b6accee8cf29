-- W3C Trace Context: the trace that a job was submitted in. Whatever is sent about the job carries it.
ALTER TABLE jobs ADD COLUMN traceparent TEXT;
ALTER TABLE jobs ADD COLUMN tracestate TEXT;

-- As with the payload: null is the job's, for a dispatch, and for an event that an older version wrote.
ALTER TABLE outbox ADD COLUMN traceparent TEXT;
ALTER TABLE outbox ADD COLUMN tracestate TEXT;

-- The span of the attempt, in a trace of its own; null if its worker did not export traces.
ALTER TABLE attempts ADD COLUMN traceparent TEXT;
