"""Images as rows: files that are opened, copies that are found, and answers that are masks."""
