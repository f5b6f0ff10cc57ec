"""The page to look at: all that the monitor knows, drawn by the server; the script only fetches it again."""
