"""The durable state: SQL, in one place, behind about a dozen verbs."""
