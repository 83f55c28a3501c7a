import io.tus.java.client.TusClient;
import io.tus.java.client.TusUpload;
import io.tus.java.client.TusUploader;
import java.io.File;
import java.net.URL;

/**
 * Uploads FILE to URL with tus-java-client: {@code TusJava URL FILE PAYLOAD}. PAYLOAD is the number
 * of bytes in one request. Prints the URL of the upload.
 */
public final class TusJava {
  private TusJava() {}

  public static void main(String[] arguments) throws Exception {
    TusClient client = new TusClient();
    client.setUploadCreationURL(new URL(arguments[0]));
    TusUploader uploader = client.createUpload(new TusUpload(new File(arguments[1])));
    uploader.setChunkSize(1024);
    uploader.setRequestPayloadSize(Integer.parseInt(arguments[2]));
    while (uploader.uploadChunk() > -1) {
      // Each call sends one chunk.
    }
    uploader.finish();
    System.out.println(uploader.getUploadURL());
  }
}
