package faults_test

const victimEnv = "FAULTS_VICTIM"

func runVictim(string) {}
