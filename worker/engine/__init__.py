"""The student under DeepSpeed, the sharded teacher, and the ranks of a job."""
