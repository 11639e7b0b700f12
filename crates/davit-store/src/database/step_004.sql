-- CRC-32C of a tree's file, or of all that an extracted tree shows; unknown of earlier ones.
ALTER TABLE trees ADD COLUMN crc32c INTEGER;

-- The boot in which a tree was written: it is never synced.
ALTER TABLE trees ADD COLUMN boot TEXT;
