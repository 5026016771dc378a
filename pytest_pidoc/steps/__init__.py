"""What is done to a new cluster before it is saved: functions, scripts and playbooks, and by what they are known."""
