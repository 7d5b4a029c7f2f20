"""How a job outlives a loss: heartbeats, protection in node memory, repair in place, relaunch, checkpoints written behind."""
