"""What drivers over a byte stream share.

==================  ===========================================================================
connector           opens a connection: dials, starts a session, logs in
transport           the one transport of all these drivers: it has a stream and a session
session             abstract: what a driver writes to speak its protocol
stream              a connection that threads share: turns, signs of life, the end; its parts:
shared_reader       which thread reads, for all that wait
writer              what goes out, whole and in turns; what is kept back, to go out together
heart               the signs of life that both ends give
standstill          how long nothing has moved, while an answer is waited for
news                what the program is told, in a thread of its own
socket              the byte stream itself: TCP or TLS
poll, timer         waiting for a socket; the process's one timer thread
batching            which threads' messages are held back, to go out together
==================  ===========================================================================

**Locks.** A thread that holds one of these may take those below it, and never one above. Except
for the first, none is held while waiting for the broker, or for room:

==============================  ==============================================================
lock                            guards
==============================  ==============================================================
``_telling`` (News)             a thread's turn to tell; held while the program's callbacks run
``_passed`` (SharedReader)      whose turn it is to read; under it a thread asks ``ready()``
``_lock`` (StreamWriter)        what is kept back, and whose turn it is to write
``_ending`` (Stream)            why the connection is gone: the first reason counts
``_numbers`` (a session)        which channels there are
``_tls_lock`` (TlsStream)       OpenSSL's reading and writing, which exclude each other
``_changed`` (Timer)            the timer's thread, and what is to be called when
==============================  ==============================================================
"""
