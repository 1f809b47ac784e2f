"""The five services. One turn, as it flows:

    browser ──mic──▶ gateway ──▶ [mic] ──▶ asr ──▶ [transcript] ──▶ gateway (turn-taking)
                                                                       │ opens three calls at once
                      ┌────────────────────────────────────────────────┘
                      ▼
                     llm ──▶ [reply] ──▶ tts ──▶ [speech] ──▶ talkinghead ──▶ [video]
                                                    │                            │
    browser ◀─────────── gateway ◀──────────────────┴────────────────────────────┘

`[x]` is a Redis stream of one session. All stages of a turn start together and wait for their input, so
they overlap without any of them knowing the others.
"""
