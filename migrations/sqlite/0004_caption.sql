-- What a model said of a picture whose request has no prompt: part of what dataset tools read of a batch.
ALTER TABLE jobs ADD COLUMN caption TEXT;
