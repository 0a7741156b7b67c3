"""What a training step takes, before anybody has made one: a simulation of every schedule.

profile.py has the times of computing, wire.py those of messages, programs.py what a rank does by each schedule, and
simulation.py the clock that all of this runs by; networks.py has sums on networks that are not here.
"""
