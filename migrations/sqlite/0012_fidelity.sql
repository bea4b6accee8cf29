-- How true the layers of a decompose are to their picture, as JSON.
ALTER TABLE jobs ADD COLUMN fidelity TEXT;
